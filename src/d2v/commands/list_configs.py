"""``d2v configs``: the shipped configs with a line each, or one of them whole."""

import argparse
import sys

from d2v.configs import SHIPPED, find_config, header_of
from d2v.errors import UserError

_GROUPS = {
    "own": "to start from with data of your own",
    "": "pretraining as published: data2vec 1.0",
    "v2": "pretraining as published: data2vec 2.0",
    "finetune": "fine-tuning (--model.checkpoint RUN_OR_FOLDER)",
    "learn": "small models for two CPU cores, measured on public data (benchmarks/README.md)",
    "demo": "the demos (first: d2v prepare demo vision|speech|text)",
}
_OVERLAYS = "overlays: give one beside a recipe, --config RECIPE --config OVERLAY"
_WIDEST = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this one whole, with what its header says")


def run(args: argparse.Namespace) -> None:
    """Print the list, or one config."""
    if args.name is not None:
        try:
            path = find_config(args.name)
        except UserError as error:
            raise UserError(str(error).replace("--config ", "", 1)) from error
        print(f"# {path}", file=sys.stderr)
        print(path.read_text(encoding="utf-8"), end="")
        return
    groups: dict[str, list[tuple[str, str]]] = {}
    for title in (*_GROUPS.values(), _OVERLAYS):
        groups[title] = []
    for path in sorted(SHIPPED.rglob("*.yaml")):
        name = path.relative_to(SHIPPED)
        line = header_of(path).partition(". ")[0].rstrip(".")
        folder = name.parts[0] if len(name.parts) > 1 else ""
        title = _GROUPS.get(folder, folder)
        if line.startswith("Overlay"):
            title, line = _OVERLAYS, line.partition(": ")[2]
        groups.setdefault(title, []).append((name.as_posix(), line))
    for title, rows in groups.items():
        if rows:
            print(f"{title}\n")
        for name_of, line in rows:
            shown = line if len(line) <= _WIDEST else f"{line[:_WIDEST].rpartition(' ')[0]} ..."
            print(f"  {name_of:<40} {shown}")
        if rows:
            print()
    print("d2v configs NAME shows one whole; d2v fit --config NAME --model.help and --data.help explain its keys.")
