"""``d2v prepare``: makes or checks data before a training."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2v.commands.prepare_text import add_text_arguments, prepare_text
from d2v.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{demo,speech,text}")
    demo = kinds.add_parser("demo", help="small data from installed packages, nothing is downloaded")
    demo.add_argument(
        "modality",
        choices=["vision", "speech", "text"],
        help="vision: crops of the photographs in scikit-image and scikit-learn; speech: sentences and digits that "
        "eSpeak NG says (GPL-3; pip install espeakng-loader); text: docstrings of the packages that d2v needs",
    )
    demo.add_argument("--output", type=Path, help="folder to write (data/demo/MODALITY)")
    speech = kinds.add_parser("speech", help="check sound before a training: hours, rates, speakers, broken files")
    speech.add_argument(
        "--input", required=True, metavar="ROOT", help="LibriSpeech or other folder, manifest (.tsv), glob or archive"
    )
    speech.add_argument("--output", type=Path, help="folder for report.json, manifest.tsv and lengths.png (none)")
    speech.add_argument("--decode", action="store_true", help="decode all sound, and not only read the headers")
    text = kinds.add_parser("text", help="raw text to a byte-level BPE and token shards; goes on where it was stopped")
    add_text_arguments(text)


def run(args: argparse.Namespace) -> None:
    """Prepare.

    Raises:
        UserError: The output cannot be written, a package is missing, or nothing in the input is usable.
    """
    if args.kind == "speech":
        return _check_speech(args.input, args.output, args.decode)
    if args.kind == "text":
        with _writing(args.output):
            return prepare_text(args)
    output = args.output or Path("data/demo", args.modality)
    with _writing(output):
        done = {"vision": _demo_vision, "speech": _demo_speech, "text": _demo_text}[args.modality](output)
    print(done)


def _demo_vision(output: Path) -> str:
    from d2v.demo.vision import prepare_demo

    summary = prepare_demo(output)
    state = "written to" if summary.created else "already in"
    return (
        f"{summary.num_train:,} crops to train on and {summary.num_val:,} to validate, of {len(summary.classes)} "
        f"photographs ({', '.join(summary.classes)}): {state} {summary.root}"
    )


def _demo_speech(output: Path) -> str:
    from d2v.demo.speech import prepare_demo

    summary = prepare_demo(output)
    state = "written to" if summary.created else "already in"
    sentences, digits = summary.sentences, summary.digits
    return (
        f"{summary.hours * 60:.0f} minutes of synthetic speech by {summary.voices} voices of eSpeak NG (GPL-3): "
        f"{sentences['train']:,} sentences to train on and {sentences['val']:,} to validate, {digits['train']:,} and "
        f"{digits['val']:,} digits: {state} {summary.root}"
    )


def _demo_text(output: Path) -> str:
    from d2v.demo.text import prepare_demo

    summary = prepare_demo(output)
    state = "written to" if summary.created else "already in"
    documents = summary.documents
    return (
        f"{documents['train']:,} documents to train on and {documents['val']:,} to validate, "
        f"{summary.characters / 1e6:.1f} million characters; {sum(summary.labels.values()):,} of them with one of "
        f"{len(summary.labels)} labels ({', '.join(summary.labels)}): {state} {summary.root}"
    )


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Make what fails in here a message about ``--output``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); give another folder") from error


def _check_speech(root: str, output: Path | None, decode: bool) -> None:
    from d2v.modalities.speech.report import check_folder, histogram, write_report
    from d2v.modalities.speech.survey import describe, survey

    if output is not None:
        with _writing(output):  # now, and not after an hour of decoding
            check_folder(root, output)
            output.mkdir(parents=True, exist_ok=True)
    try:
        figures, clips = survey(root, decode)
    except UserError as error:
        raise UserError(str(error).replace("data.root", "--input")) from error
    except OSError as error:
        raise UserError(f"--input {root}: cannot be read ({error.strerror or error})") from error
    print(describe(figures))
    print(histogram(clips))
    if output is not None:
        with _writing(output):
            written = write_report(figures, clips, output)
        print("written: " + ", ".join(str(path) for path in written))
