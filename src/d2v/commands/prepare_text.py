"""``d2v prepare text``: raw text to a tokenizer and token shards."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.commands.arguments import add_share, positive

if TYPE_CHECKING:
    from d2v.modalities.text.corpus.preparing import PreparedText

VOCAB_SIZE = 50260
"""The types of GPT-2 and three that fairseq adds; with five special tokens this makes RoBERTa's number."""

_LITTLE = 200_000_000  # bytes: for less, own/text.yaml (docs/own_data.md)


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PATH",
        help="files, folders and globs: plain text (documents between blank lines, or one a line), .jsonl, .csv, .tsv, "
        ".parquet; the first four also .gz, .bz2, .xz, .zst",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument(
        "--vocab-size",
        "--vocab_size",
        type=positive,
        default=VOCAB_SIZE,
        metavar="N",
        help=f"types of the byte-level BPE that is trained on at most 128 MiB of the text ({VOCAB_SIZE})",
    )
    tokenizer.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="take this one: a tokenizer.json, a folder of Hugging Face, GPT-2's two files (with fairseq's dict.txt "
        "beside them), a run or checkpoint of d2v",
    )
    parser.add_argument(
        "--val-fraction",
        "--val_fraction",
        type=float,
        default=0.01,
        metavar="F",
        help="of the documents, for validation (0.01)",
    )
    parser.add_argument(
        "--text-column", "--text_column", default="text", metavar="NAME", help="of tables and JSON lines (text)"
    )
    parser.add_argument("--num_workers", "--num-workers", type=positive, metavar="N", help="processes (one a core)")
    parser.add_argument("--verify", action="store_true", help="read the shards again and compare their checksums")
    add_share(parser)


def prepare_text(args: argparse.Namespace) -> None:
    """Prepare, and say what came of it.

    Raises:
        UserError: The input cannot be used, or the output holds something else.
        OSError: The output cannot be written.
    """
    from d2v.modalities.text.corpus.preparation import prepare_corpus
    from d2v.shares import ShareDone, own_share

    prepared = prepare_corpus(
        args.input,
        args.output,
        tokenizer=args.tokenizer,
        vocab_size=args.vocab_size,
        val_fraction=args.val_fraction,
        num_workers=args.num_workers,
        text_column=args.text_column,
        verify=args.verify,
        share=own_share(args.share),
    )
    if isinstance(prepared, ShareDone):
        print(prepared)
        return
    asked = args.vocab_size
    if args.tokenizer:
        asked = None
    print(describe(prepared, asked, args.verify))


def describe(prepared: "PreparedText", asked: int | None, verified: bool) -> str:
    """What lies in the folder, in lines.

    Args:
        prepared: Of ``prepare_corpus``.
        asked: Types that were asked for; None: the tokenizer was given.
        verified: Whether the checksums were compared.
    """
    documents, tokens = prepared.documents, prepared.tokens
    all_tokens = sum(tokens.values())
    types = f"{prepared.types:,} with the special tokens"
    if asked is not None:
        types = f"{prepared.types - 5:,} and 5 special tokens"
        if prepared.types - 5 < asked:
            types += f"; {asked:,} were asked for, but this text has no more pairs that occur twice"
    lines = [
        f"files      {prepared.files:,}",
        f"documents  {documents['train']:,} to train on, {documents['val']:,} to validate",
        f"tokens     {tokens['train']:,} to train on, {tokens['val']:,} to validate",
        f"types      {types}",
        f"bytes      {prepared.bytes:,} of text, {prepared.bytes / all_tokens:.2f} a token",
    ]
    if not documents["val"]:
        lines.append("validation none: there are too few documents for --val_fraction")
    if prepared.line_files:
        lines.append(f"note       {prepared.line_files:,} files have no blank lines: each line is a document")
    if prepared.invalid:
        lines.append(f"note       {prepared.invalid:,} places that were no UTF-8 became U+FFFD")
    if prepared.encoded:
        seconds = prepared.encoding_seconds / prepared.encoded
        again = ""
        if prepared.encoded < 1:
            again = f" ({1 - prepared.encoded:.0%} was there already)"
        lines.append(
            f"speed      {prepared.bytes / seconds / 1e6:.1f} MB/s, {all_tokens / seconds:,.0f} tokens/s{again}; "
            f"tokenizer {prepared.training_seconds:.0f} s, encoding {prepared.encoding_seconds:.0f} s"
        )
    if verified:
        lines.append("verified   all checksums are right")
    state = "written to" if prepared.created else "already in"
    lines.append(f"{state} {prepared.folder}")
    command = f"next: d2v fit --config v2/text.yaml --data.root {prepared.folder}"
    if prepared.bytes < _LITTLE:
        command = command.replace("v2/", "own/") + f" --model.student.front.vocab_size {prepared.types}"
    lines.append(command)
    return "\n".join(lines)
