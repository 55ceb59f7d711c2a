"""``d2v prepare``: makes or checks data before a training."""

import argparse
from pathlib import Path

from d2v.commands.prepare_text import add_text_arguments, prepare_text
from d2v.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{demo,speech,text}")
    demo = kinds.add_parser("demo", help="small data from installed packages, nothing is downloaded")
    demo.add_argument(
        "modality",
        choices=["vision", "speech", "text", "joint"],
        help="vision: crops of the photographs in scikit-image and scikit-learn; speech: sentences and digits that "
        "eSpeak NG says (GPL-3; pip install espeakng-loader); text: docstrings of the packages that d2v needs; joint: "
        "all three, and digits written by hand, spoken and named in sentences",
    )
    demo.add_argument("--output", type=Path, help="folder to write (data/demo/MODALITY)")
    speech = kinds.add_parser("speech", help="check sound before a training: hours, rates, speakers, broken files")
    speech.add_argument(
        "--input", required=True, metavar="ROOT", help="LibriSpeech or other folder, manifest (.tsv), glob or archive"
    )
    speech.add_argument("--output", type=Path, help="folder for report.json, manifest.tsv and lengths.png (none)")
    speech.add_argument("--transcripts", type=Path, metavar="FILE", help="table of files and their texts (none)")
    speech.add_argument("--file_column", metavar="COLUMN", help="of that table, by heading or number (found)")
    speech.add_argument("--text_column", metavar="COLUMN", help="likewise, of the texts (found)")
    speech.add_argument("--decode", action="store_true", help="decode all sound, and not only read the headers")
    text = kinds.add_parser("text", help="raw text to a byte-level BPE and token shards; goes on where it was stopped")
    add_text_arguments(text)


def run(args: argparse.Namespace) -> None:
    """Prepare, and print what came of it.

    Raises:
        UserError: The output cannot be written, a package is missing, or nothing in the input is usable.
    """
    if args.kind == "demo":
        from d2v.demo import prepare_demo

        print(prepare_demo(args.modality, args.output))
    elif args.kind == "speech":
        from d2v.modalities.speech.report import prepare_speech

        print(
            prepare_speech(args.input, args.output, args.decode, args.transcripts, args.file_column, args.text_column)
        )
    else:
        try:
            prepare_text(args)
        except OSError as error:
            text = f"--output {args.output}: cannot be written ({error.strerror}); give another folder"
            raise UserError(text) from error
