"""`d2v import`: a checkpoint of the official implementations, in a form that d2v loads, without their code."""

import argparse
import sys
from pathlib import Path
from typing import Any

LARGE = 200e6
"""Bytes above which reading takes long enough to say so."""


class _List(argparse.Action):
    """Prints the list, and ends, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from d2v.official.published import published_checkpoints

        print(published_checkpoints())
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--list", nargs=0, action=_List, help="list the official checkpoints, with what each is")
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="fairseq .pt or data2vec_vision .pth checkpoint, a folder of Hugging Face or FunASR, or hf://OWNER/NAME",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for the imported model")
    parser.add_argument(
        "--dict",
        type=Path,
        metavar="FILE",
        help="symbols of a fine-tuned recogniser (fairseq's dict.ltr.txt; looked for beside SOURCE)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of a fine-tuned classifier's classes, one a line, in the order of its outputs",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="tokenizer of a text encoder: a tokenizer.json, or a folder with GPT-2's encoder.json and vocab.bpe and "
        "with fairseq's dict.txt (looked for beside SOURCE, or in it if it is a folder)",
    )


def run(args: argparse.Namespace) -> None:
    """Import ``args.source`` into ``args.output``, and print what was imported."""
    from d2v.official.importing import import_checkpoint

    _announce(args.source)
    print(import_checkpoint(args.source, args.output, args.dict, args.classes, args.tokenizer))


def _announce(source: Path) -> None:
    """Say that a large file is going to be read."""
    files = [source]
    if source.is_dir():
        files = list(source.iterdir())
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size > LARGE:
        print(f"reading {source} ({size / 1e9:.1f} GB) ...", file=sys.stderr, flush=True)
