"""`d2v export`: a model as a folder of d2v, of Hugging Face transformers, as ONNX or as a torch program."""

import argparse
import sys
from pathlib import Path

from d2v.commands.arguments import add_modality

FORMATS = ("hf", "safetensors", "onnx", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "safetensors: a folder that d2v.load, model.init_from and model.checkpoint take; of a pretraining the student, "
        "the teacher and the head. hf: for Hugging Face transformers; data2vec 2.0 with a file of code, "
        "modeling_d2v.py, that trust_remote_code=True runs. onnx, torch: one file that computes features, or the "
        "scores of a fine-tuned head, for any batch, length and size; it is compared with the model at other sizes, "
        "and the largest difference is printed."
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="checkpoint, run, imported folder, or hf://OWNER/NAME"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder")
    parser.add_argument("--weights", choices=("student", "teacher"), help="which of a pretraining's (student)")
    add_modality(parser)
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face hub, too")


def run(args: argparse.Namespace) -> None:
    """Write ``args.output``, and print what was written."""
    from d2v.official.exporting import export_checkpoint

    if args.format in ("onnx", "torch"):
        print("tracing the model and comparing it at other sizes takes a moment", file=sys.stderr, flush=True)
    print(export_checkpoint(args.checkpoint, args.output, args.format, args.weights, args.push, args.modality))
