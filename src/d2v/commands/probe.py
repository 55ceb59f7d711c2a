"""``d2v probe``: kNN and linear accuracy of frozen features, of one encoder or of several side by side."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from d2v.commands.arguments import add_features, add_modality, parse_with_keys, positive
from d2v.commands.early_checks import require_roots_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; those of the data are read by :func:`parse_args`."""
    parser.epilog = (
        "--data.root LABELLED: pictures or sound in one folder for each class, or a table of texts and labels; where "
        "it has no val/ or the like, a fifth of each class is held out. Any other value of the data section can be "
        "set: --data.batch_size N, --data.labels labels.tsv, ... The last line of stdout is one JSON object."
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH|random",
        help="run, checkpoint, imported or exported folder; repeat it to compare. random, which is added at the end: "
        "the first of them with new weights",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME.yaml",
        help="config with a data section, by path or by name; later ones change earlier ones; default: the run's own, "
        "or what is usual for the encoder",
    )
    parser.add_argument("--no-random", dest="untrained", action="store_false", help="without the untrained encoder")
    add_modality(parser)
    add_features(parser)
    parser.add_argument("--pool", choices=("mean", "cls"), default="mean", help="of the tokens of a sample")
    parser.add_argument("--max_samples", type=positive, metavar="N", help="at most N of each split, evenly spaced")
    parser.add_argument("--k", type=positive, default=20, help="neighbours of the kNN classifier (20)")
    parser.add_argument("--seed", type=int, help="of untrained encoders; default: seed_everything of the config, or 0")
    parser.add_argument("--output", type=Path, metavar="DIR", help="draw masks, features and training curves there")


def parse_args(parser: argparse.ArgumentParser, args: Sequence[str]) -> argparse.Namespace:
    """Parse, and keep ``--data.*`` for the DataModule, and ``--media.NAME``."""
    namespace = parse_with_keys(parser, args, ("--data.", "--media."))
    namespace.data, namespace.media = {}, {}
    for key, value in vars(namespace).pop("keys").items():
        section, _, name = key.partition(".")
        getattr(namespace, section)[name] = value
    return namespace


def run(args: argparse.Namespace) -> None:
    """Probe, print a table and the JSON object; see :func:`d2v.monitoring.comparison.probe`."""
    require_roots_of(args.config, args.data, args.modality, args.media)
    from d2v.monitoring.comparison import probe

    compared = probe(**vars(args))
    print(compared)
    for path in compared.drawn:
        print(f"drawn: {path}")
    result = compared.rows[0]
    if len(compared.rows) > 1:
        result = {**result, "baseline": compared.rows[-1]}
    print(json.dumps(result))
