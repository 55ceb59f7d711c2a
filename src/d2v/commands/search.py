"""``d2v search``: the rows of files of features that are nearest to one of them, or to something new."""

import argparse
from pathlib import Path

from d2v.commands.arguments import add_modality, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "A query that is the id of a row is that row, which is then no neighbour of itself. Any other is a file, or "
        "several (a folder, a glob), and is embedded with --checkpoint as the rows were: layer, pooling and the like "
        "stand in EMBEDDINGS. All rows are compared: the neighbours are exact. Features of several media are searched "
        "together if `d2v embed --space shared` wrote them; neighbours are then of any medium."
    )
    parser.add_argument(
        "embeddings", nargs="+", metavar="EMBEDDINGS", help="what d2v embed wrote, pooled; several: in one space"
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        metavar="ID|FILE",
        help="an id in it (FILE:ID where several have it), or a new file; repeatable",
    )
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="a text as a query; repeatable")
    parser.add_argument(
        "--together", action="store_true", help="all queries as one: this picture and these words (their mean)"
    )
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="neighbours of each query (10)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="PATH",
        help="that the rows were embedded with, one a medium; only for new files and texts",
    )
    add_modality(parser)
    parser.add_argument("--output", type=Path, metavar="FILE.tsv", help="write the table there: query, rank, ...")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw queries and neighbours: pictures, spectrograms, words"
    )
    parser.add_argument("--root", metavar="DIR", help="that ids are paths below; default: the input of the embedding")
    parser.add_argument("--device", default="auto", help="for new files: auto, cpu, cuda, cuda:1, mps")


def run(args: argparse.Namespace) -> None:
    """Search, and print the neighbours; see :func:`d2v.features.search.search`."""
    from d2v.features.search import search

    for neighbours in search(**vars(args)):
        print(f"{neighbours.query}\n  similarity  id")
        for item, similarity in zip(neighbours.items, neighbours.similarities, strict=True):
            medium = f"{item.medium}  " if len(args.embeddings) > 1 else ""
            words = f": {' '.join(item.text.split())[:80]}" if item.text else ""
            print(f"  {similarity:10.4f}  {medium}{item.id}{words}")
    if args.output is not None:
        print(f"written: {args.output}")
    if args.picture is not None:
        print(f"drawn: {args.picture}")
