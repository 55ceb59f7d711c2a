"""``d2v align``: one space for pictures, speech, text and more, from a table of pairs."""

import argparse
import json
from pathlib import Path

from d2v.commands.arguments import add_weights, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "The table (TSV, CSV, JSON lines, Parquet) has a column for each medium: picture, speech, audio, text, or what "
        "another encoder is called; a cell is a path or a text, and may be empty. Then `d2v embed --space shared` "
        "writes vectors of any medium into the space, and `d2v search` searches them together. Without --pairs, --test "
        "measures a space that is there. Recall: the share of queries that find what belongs to them (the other cell "
        "of their row; with --label, any item of their label) among the first 1, 5 and 10 of all items of the other "
        "medium in the test rows. The last line of stdout is one JSON object."
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="one that holds several encoders, or repeated: one a medium",
    )
    parser.add_argument("--pairs", metavar="TABLE", help="rows to train on: at least 8, better 200")
    parser.add_argument("--test", metavar="TABLE", help="rows to measure recall on")
    parser.add_argument(
        "--test_fraction", type=float, default=0.0, metavar="F", help="or the share of --pairs held out for that (0)"
    )
    parser.add_argument(
        "--label",
        metavar="COLUMN",
        help="of the tables: rows of one label mean the same, in training, and a hit is any item of it",
    )
    parser.add_argument("--root", metavar="DIR", help="that paths are relative to; default: each table's folder")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the space; default: RUN/shared or FILE.shared"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a space that is there")
    parser.add_argument("--num_pairs", type=positive, metavar="N", help="train on N rows, drawn by --seed (all)")
    parser.add_argument("--width", type=positive, default=64, help="of the space (64)")
    add_weights(parser)
    parser.add_argument(
        "--unfreeze", action="store_true", help="train the encoders too; the space keeps what they become"
    )
    parser.add_argument("--baseline", action="store_true", help="measure projections on untrained encoders too")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")


def run(args: argparse.Namespace) -> None:
    """Align, print a table and the JSON object; see :func:`d2v.features.align.align`."""
    from d2v.features.align import align

    found = align(**vars(args))
    print(found)
    print(json.dumps(found.entries()))
