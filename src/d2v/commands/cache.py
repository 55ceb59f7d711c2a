"""``d2v cache``: shows and clears what d2v keeps about the user's data."""

import argparse
import sys
import time

from d2v.data.user_cache import DEFAULT_GB, SIZE, Entry, cache_folder, entries, largest_size, remove, time_ago

KINDS = {
    "file-index": "names of the files of folders with 100,000 or more",
    "sound-headers": "lengths and rates of sound files",
    "tar-index": "where the files in tars begin",
    "text-shards": "tokens and tokenizer of raw text",
    "text-blocks": "where sentences end",
    "text-checked": "which shards were compared with their checksums",
    "text-tokens": "tokens of labelled texts",
    "store-lists": "which files object stores hold",
    "store-shards": "files of object stores",
    "imported": "checkpoints of others, as d2v import writes them",
    "aligned": "features of the items of tables that d2v align read",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        f"All of it is computed again when it is needed. {SIZE} sets the largest size in GB ({DEFAULT_GB:g}); above it "
        "the entries go that were not used for longest. Downloads of the Hugging Face hub are not here: hf cache ls"
    )
    commands = parser.add_subparsers(dest="action", metavar="clear")
    clear = commands.add_parser("clear", help="remove it, except for what a running process uses; nothing is asked")
    listed = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    clear.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"only one kind. {listed}")
    clear.add_argument(
        "--unused_for", "--unused-for", type=float, default=0.0, metavar="DAYS", help="only what was not used since (0)"
    )


def run(args: argparse.Namespace) -> None:
    """Show what is there, or remove it.

    Raises:
        UserError: The bound is no number.
    """
    found, largest = entries(), largest_size()
    if args.action == "clear":
        _clear(found, args.kind, args.unused_for)
        return
    rows = [("KIND", "WHAT", "SIZE", "LAST USED")]
    for entry in found:
        rows.append((entry.kind, entry.path.name.removesuffix(".npz"), in_words(entry.size), time_ago(entry.used)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for kind, what, size, used in rows:
        print(f"{kind:<{widths[0]}}  {what:<{widths[1]}}  {size:>{widths[2]}}  {used}")
    total = in_words(sum(entry.size for entry in found))
    print(f"{len(found):,} entries, {total} of at most {largest / 1e9:g} GB ({SIZE}), in {cache_folder()}")


def _clear(found: list[Entry], kind: str | None, days: float) -> None:
    removed = []
    for entry in found:
        if kind in (None, entry.kind) and time.time() - entry.used >= days * 86400:
            if remove(entry):
                removed.append(entry)
            else:
                print(f"kept {entry.kind} {entry.path.name}: a running process uses it", file=sys.stderr)
    print(f"freed {in_words(sum(entry.size for entry in removed))}: {len(removed):,} entries removed")


def in_words(size: int) -> str:
    """Bytes with a unit."""
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
