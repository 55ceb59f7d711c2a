"""``d2v bench``: how fast a recipe trains on this machine, and where its time goes."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from d2v.commands.arguments import parse_with_keys, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; those of the recipe are kept by :func:`parse_args`."""
    parser.epilog = (
        "Real steps of the recipe are timed: its module, optimizer, clipping, teacher and logging, in Lightning's "
        "loop, one micro-batch a step. Batches are noise in the recipe's shapes, unless --data.root names data, "
        "whose loading then counts. Any key of the recipe can be set, such as --model.num_masks 8 or --compile true. "
        "The last line of stdout is one JSON object."
    )
    parser.add_argument(
        "--config", action="append", required=True, metavar="NAME.yaml", help="recipe of pretraining; then overlays"
    )
    parser.add_argument("--precision", help="32, bf16, 16 or another of the trainer's; default: the recipe's")
    parser.add_argument("--batch_size", metavar="N", help="images, seconds of audio, tokens (the recipe's)")
    parser.add_argument("--steps", type=positive, default=10, metavar="N", help="timed steps, after warm-up (10)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--lengths",
        choices=("equal", "drawn"),
        default="equal",
        help="of made clips: 15.6 seconds, or drawn as those of LibriSpeech",
    )
    parser.add_argument("--peers", action="store_true", help="time other implementations of the recipe beside it")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write bench.json and a chart there")
    parser.add_argument("--compare", type=Path, metavar="OTHER.json", help="print an earlier result beside this one")


def parse_args(parser: argparse.ArgumentParser, args: Sequence[str]) -> argparse.Namespace:
    """Parse, and keep what is for the recipe."""
    return parse_with_keys(parser, args, ("--model.", "--media.", "--data.", "--trainer.", "--compile"))


def run(args: argparse.Namespace) -> None:
    """Time, and print a table and the JSON object; see :func:`d2v.commands.bench_recipe.bench_recipe`."""
    from d2v.bench.result import comparison, make_folder, read_result, write
    from d2v.commands.bench_recipe import bench_recipe

    other = None if args.compare is None else read_result(args.compare)
    if args.output is not None:
        make_folder(args.output)
    result = bench_recipe(
        args.config,
        steps=args.steps,
        batch_size=args.batch_size,
        precision=args.precision,
        device=args.device,
        lengths=args.lengths,
        peers=args.peers,
        **args.keys,
    )
    print(result)
    if other is not None:
        print(comparison(result, other, str(args.compare)))
    if args.output is not None:
        for path in write(result, args.output):
            print(f"written: {path}")
    print(json.dumps(result))
