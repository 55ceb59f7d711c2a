"""``d2v bench data``: how fast the data of a recipe are loaded, and where the time goes."""

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from d2v.commands.arguments import add_modality
from d2v.commands.early_checks import require_roots_of
from d2v.commands.probe import parse_args as parse_args
from d2v.errors import UserError

if TYPE_CHECKING:
    from d2v.bench.loading import LoadingResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; those of the data are read by ``parse_args``."""
    parser.epilog = (
        "Training batches of --data.root are loaded in this process, in loading processes, and with --peers by others. "
        "Any value of the data section can be set, such as --data.batch_size 64. The last line of stdout is JSON."
    )
    parser.add_argument(
        "--config", action="append", required=True, metavar="NAME.yaml", help="config with a data section; overlays"
    )
    add_modality(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="loading processes; default: as in training")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each of the two ways is timed (5)")
    parser.add_argument(
        "--peers", action="store_true", help="torchvision, whole files by soundfile, Hugging Face's datasets beside it"
    )


def run(args: argparse.Namespace) -> None:
    """Time, and print a table and the JSON object."""
    require_roots_of(args.config, args.data, args.modality, args.media)
    result = bench_data(args.config, args.data, args.workers, args.seconds, args.peers, args.modality, args.media)
    print(result)
    print(json.dumps(result))


def bench_data(
    config: str | list[str],
    data: Mapping[str, Any] | None = None,
    workers: int | None = None,
    seconds: float = 5.0,
    peers: bool = False,
    modality: str | None = None,
    media: Mapping[str, Any] | None = None,
) -> "LoadingResult":
    """Load training batches: units a second of one core and of loading processes, and the share of each stage.

    Args:
        config: One or several with a section ``data``, as in :func:`d2v.probe`.
        data: Changes to that section, such as {"root": DIR}.
        workers: Loading processes; None: as many as in training.
        seconds: That each of the two lasts.
        peers: Whether to time others, batch by batch beside it: torchvision's ImageFolder with its transforms, sound
            files read whole by soundfile, Hugging Face's datasets.
        modality: Which part of joint data.
        media: Changes to the section ``media`` of a joint config, such as {"speech": None}.

    Returns:
        What the command prints as JSON. Rates of a core are per second of its time, in which a wait for a disk does not
        count; those of processes are per second that passed.

    Raises:
        UserError: A config or a value is wrong, or others cannot read these samples.
    """
    from d2v.bench.loading import time_loading
    from d2v.evaluation.labelled_data import build_data
    from d2v.joint_configs import merged_configs

    if not 0 < seconds < 86_400:
        raise UserError(f"--seconds {seconds:g}: give a time above 0, and of less than a day")
    merged = merged_configs([config] if isinstance(config, str) else config, modality, media)
    if "data" not in merged:
        raise UserError("--config: there is no `data:` section; give a config that has one, such as a recipe")
    changes = {**_sized(merged, dict(data or {})), "global_batch_size": None}  # one device's batches are loaded
    if workers is not None:
        changes["num_workers"] = workers
    module = build_data(merged["data"], changes)
    module.reads_labels = False
    module.prepare_data()
    module.setup()
    return time_loading(module, seconds, peers)


def _sized(merged: Mapping[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Pictures have the size that the recipe's encoder is made for, which need not be built for that."""
    stated = (merged["data"].get("init_args") or {}).get("image_size")
    node: Any = merged
    for key in ("model", "init_args", "student", "front", "init_args", "image_size"):
        node = node.get(key) if isinstance(node, dict) else None
    if node is not None and stated is None and "image_size" not in changes:
        changes["image_size"] = node
    return changes
