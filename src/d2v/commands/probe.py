"""``d2v probe``: kNN and linear accuracy of frozen features, of one encoder or of several side by side."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from d2v.commands.arguments import add_features, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; those of the data are read by :func:`parse_args`."""
    parser.epilog = (
        "Any value of the data section can be set: --data.root DIR, --data.batch_size N, --data.num_workers N, ... "
        "The last line of stdout is one JSON object."
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH|random",
        help="checkpoint or exported folder; random: the config's student, untrained; repeat it to compare",
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="NAME.yaml",
        help="config with a data section, by path or by name; later ones change earlier ones",
    )
    add_features(parser)
    parser.add_argument("--pool", choices=("mean", "cls"), default="mean", help="of the tokens of a sample")
    parser.add_argument("--max_samples", type=positive, metavar="N", help="at most N of each split, evenly spaced")
    parser.add_argument("--k", type=positive, default=20, help="neighbours of the kNN classifier (20)")
    parser.add_argument("--seed", type=int, help="of untrained encoders; default: seed_everything of the config, or 0")
    parser.add_argument("--output", type=Path, metavar="DIR", help="draw masks, features and training curves there")


def parse_args(parser: argparse.ArgumentParser, args: Sequence[str]) -> argparse.Namespace:
    """Parse, and keep ``--data.*`` for the DataModule, whose keys only the config knows."""
    namespace, rest = parser.parse_known_args(args)
    namespace.data = {}
    words = iter(rest)
    for word in words:
        if not word.startswith("--data."):
            parser.error(f"unrecognized argument: {word}")
        key, equals, value = word.removeprefix("--data.").partition("=")
        if not equals and (value := next(words, "--")).startswith("--"):
            parser.error(f"{word}: a value is missing")
        namespace.data[key] = value
    return namespace


def run(args: argparse.Namespace) -> None:
    """Probe, print a table and the JSON object; see :func:`d2v.monitoring.comparison.probe`."""
    from d2v.monitoring.comparison import probe

    compared = probe(**vars(args))
    print(compared)
    for path in compared.drawn:
        print(f"drawn: {path}")
    result = compared.rows[0]
    if len(compared.rows) > 1:
        result = {**result, "baseline": compared.rows[-1]}
    print(json.dumps(result))
