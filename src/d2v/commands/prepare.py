"""``d2v prepare``: makes or checks data before a training."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="demo")
    demo = kinds.add_parser("demo", help="small real data from installed packages, nothing is downloaded")
    demo.add_argument("modality", choices=["vision"], help="crops of the photographs in scikit-image and scikit-learn")
    demo.add_argument("--output", type=Path, default=Path("data/demo/vision"), help="folder to write (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Prepare.

    Raises:
        UserError: The output cannot be written, or a package is missing.
    """
    from d2v.errors import UserError
    from d2v.modalities.vision.demo import prepare_demo

    try:
        summary = prepare_demo(args.output)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror}); give another folder") from error
    state = "written to" if summary.created else "already in"
    print(
        f"{summary.num_train:,} crops to train on and {summary.num_val:,} to validate, of {len(summary.classes)} "
        f"photographs ({', '.join(summary.classes)}): {state} {summary.root}"
    )
