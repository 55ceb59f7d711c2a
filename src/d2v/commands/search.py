"""``d2v search``: the rows of a file of features that are nearest to one of them, or to a new file."""

import argparse
from pathlib import Path

from d2v.commands.arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "A query that is the id of a row is that row, which is then no neighbour of itself. Any other is a file, or "
        "several (a folder, a glob, the lines of a text), and is embedded with --checkpoint as the rows were: layer, "
        "pooling and the like stand in EMBEDDINGS. All rows are compared: the neighbours are exact."
    )
    parser.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="what d2v embed wrote, pooled")
    parser.add_argument(
        "--query", required=True, action="append", metavar="ID|FILE", help="an id in it, or a new file; repeatable"
    )
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="neighbours of each query (10)")
    parser.add_argument("--checkpoint", metavar="PATH", help="that the rows were embedded with; only for new files")
    parser.add_argument("--output", type=Path, metavar="FILE.tsv", help="write the table there: query, rank, ...")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="draw queries and neighbours, if they are files of pictures"
    )
    parser.add_argument("--root", metavar="DIR", help="that ids are paths below; default: the input of the embedding")
    parser.add_argument("--device", default="auto", help="for new files: auto, cpu, cuda, cuda:1, mps")


def run(args: argparse.Namespace) -> None:
    """Search, and print the neighbours; see :func:`d2v.features.search.search`."""
    from d2v.features.search import search

    for neighbours in search(**vars(args)):
        print(f"{neighbours.query}\n  similarity  id")
        for name, similarity in zip(neighbours.ids, neighbours.similarities, strict=True):
            print(f"  {similarity:10.4f}  {name}")
    if args.output is not None:
        print(f"written: {args.output}")
    if args.picture is not None:
        print(f"drawn: {args.picture}")
