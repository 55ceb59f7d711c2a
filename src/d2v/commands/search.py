"""``d2v search``: the rows of a file of features that are nearest to one of them, or to a new file."""

import argparse
import csv
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.commands.arguments import find_device, positive
from d2v.errors import UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import numpy as np

    from d2v.features.table import PooledFeatures

_PICTURES = (".png", ".jpg", ".pdf", ".svg")


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
    """Search, print the neighbours, and write and draw them if asked to.

    Raises:
        UserError: A query is neither an id nor a file, the checkpoint is another one, or EMBEDDINGS is no such file.
    """
    from d2v.features.search import nearest
    from d2v.features.table import read_pooled

    if args.output is not None and args.output.suffix.lower() != ".tsv":
        raise UserError(f"--output {args.output}: it is a table; its name must end with .tsv")
    if args.picture is not None and args.picture.suffix.lower() not in _PICTURES:
        raise UserError(f"--picture {args.picture}: its name must end with one of {', '.join(_PICTURES)}")
    features = read_pooled(args.embeddings)
    names, vectors, rows = _queries(features, args)
    found = nearest(features.vectors, vectors, args.top, rows)
    results = [
        [(features.ids[row], value) for row, value in zip(*pair, strict=True)]
        for pair in zip(found.rows.tolist(), found.similarities.tolist(), strict=True)
    ]
    for name, neighbours in zip(names, results, strict=True):
        print(f"{name}\n  similarity  id")
        for neighbour, value in neighbours:
            print(f"  {value:10.4f}  {neighbour}")
    if args.output is not None:
        _write_table(args.output, names, results)
        print(f"written: {args.output}")
    if args.picture is not None:
        from d2v.commands.search_sheet import draw_sheet

        root = Path(args.root or features.settings.get("input", "")).expanduser()
        is_row = [row is not None for row in rows]
        print(f"drawn: {draw_sheet(names, is_row, results, root, args.picture)}")


def _queries(features: "PooledFeatures", args: argparse.Namespace) -> tuple[list[str], "np.ndarray", list[int | None]]:
    """Names, vectors [q, D], and the rows that they are, if any."""
    import numpy as np

    row_of = {name: row for row, name in reversed(list(enumerate(features.ids)))}
    names, vectors, rows = list[str](), list[np.ndarray](), list[int | None]()
    for query in args.query:
        if query in row_of:
            names.append(query)
            vectors.append(features.vectors[row_of[query]])
            rows.append(row_of[query])
            continue
        if args.checkpoint is None:
            raise UserError(_unknown(query, features.ids, args.embeddings))
        for name, vector in _embed(query, features, args):
            names.append(name)
            vectors.append(vector)
            rows.append(None)
    return names, np.stack(vectors), rows


def _unknown(query: str, ids: list[str], embeddings: Path) -> str:
    """What to say of a query that is no id."""
    if Path(query).exists():
        return f"--query {query}: no id in {embeddings}, but a file: give --checkpoint too, and it is embedded"
    folded = {name.lower(): name for name in ids}
    near = [name for name in ids if query.lower() in name.lower()][:5]
    near = near or [folded[name] for name in difflib.get_close_matches(query.lower(), list(folded), n=5, cutoff=0.5)]
    hint = f"; near ones: {', '.join(near)}" if near else f"; they look like {ids[0]}" if ids else ""
    return f"--query {query}: neither an id in {embeddings} nor a file{hint}"


def _embed(query: str, features: "PooledFeatures", args: argparse.Namespace) -> list[tuple[str, "np.ndarray"]]:
    """Names and vectors of new files, under the settings of the others."""
    import torch

    from d2v.checkpoints.load import load
    from d2v.features.encode import Row, Skipped, embed_inputs
    from d2v.features.options import FeatureOptions, open_inputs, plan_lengths
    from d2v.features.pieces import Pieces
    from d2v.features.settings import encoder_digest

    settings = features.settings
    if "checkpoint_digest" not in settings:
        raise UserError(f"{args.embeddings}: does not say what it was made with; embed it anew to search by a new file")
    device = find_device(args.device)
    encoder = load(args.checkpoint, weights=settings["weights"])
    if encoder_digest(encoder) != settings["checkpoint_digest"]:
        raise UserError(
            f"--checkpoint {args.checkpoint}: its {settings['weights']} is not what {args.embeddings} was made with, "
            f"which was {settings['checkpoint']}; give that one, or embed anew"
        )
    encoder = encoder.to(device)
    options = FeatureOptions.of(argparse.Namespace(**settings))
    try:
        inputs = open_inputs(encoder, query, options)
    except UserError as error:
        if Path(query).exists():
            raise UserError(str(error).replace("--input", "--query")) from error
        raise UserError(_unknown(query, features.ids, args.embeddings)) from error
    pieces = Pieces(inputs, encoder, plan_lengths(inputs, device, options))
    autocast = torch.bfloat16 if options.precision == "bf16" else None
    found = []
    broken = dict(inputs.broken)
    for item in embed_inputs(encoder, pieces, device, options.layer, options.pool, autocast, num_workers=0):
        if isinstance(item, Row):
            found.append((query if len(inputs) == 1 else f"{query}: {item.name}", item.features))
        elif isinstance(item, Skipped):
            broken[item.name] = item.reason
    if broken:
        name, reason = next(iter(broken.items()))
        raise UserError(f"--query {query}: {name} cannot be embedded: {reason}")
    return found


def _write_table(path: Path, names: list[str], results: list[list[tuple[str, float]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["query", "rank", "id", "similarity"])
        for name, neighbours in zip(names, results, strict=True):
            for rank, (neighbour, value) in enumerate(neighbours, 1):
                writer.writerow([name, rank, neighbour, f"{value:.6f}"])
