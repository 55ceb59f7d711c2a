"""`d2v export`: a model as a folder of d2v, of Hugging Face transformers, as ONNX or as a torch program."""

import argparse
import sys
from pathlib import Path

from d2v.errors import UserError

FORMATS = ("hf", "safetensors", "onnx", "torch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "safetensors: a folder that d2v.load, model.init_from and model.checkpoint take; of a pretraining the student, "
        "the teacher and the head. hf: for Hugging Face transformers, of data2vec 1.0. onnx, torch: one file that "
        "computes features, or the scores of a fine-tuned head, for any batch, length and size; it is compared with "
        "the model at other sizes, and the largest difference is printed."
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="checkpoint, run, imported folder, or hf://OWNER/NAME"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder")
    parser.add_argument("--weights", choices=("student", "teacher"), help="which of a pretraining's (student)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face hub, too")


def run(args: argparse.Namespace) -> None:
    """Write ``args.output``, print what was written, and push it if that was asked for.

    Raises:
        UserError: An argument is wrong, or the model cannot be written in this format.
    """
    from d2v.checkpoints import hub
    from d2v.checkpoints.export import folder
    from d2v.checkpoints.export.source import read_source
    from d2v.checkpoints.folder import require_empty
    from d2v.checkpoints.load import load
    from d2v.official.hugging_face import writing as hugging_face

    output = args.output.expanduser()
    require_empty(output)
    if args.push is not None:
        hub.require_token(args.push)
    if args.format == "safetensors" and args.weights is not None:
        raise UserError(
            "--weights: --format safetensors writes student and teacher; leave it out, and say which to d2v.load"
        )
    if args.format == "onnx":
        from d2v.checkpoints.export.program import require_onnx

        require_onnx()
    path = hub.local_path(args.checkpoint)
    source = read_source(path)
    if args.format == "safetensors":
        written = folder.export(source, output)
    else:
        if args.weights == "teacher" and (source.ctc or source.classifier):
            raise UserError("--weights teacher: a fine-tuned model has one encoder; leave it out")
        encoder = load(path, weights=args.weights or "student")
        if args.format == "hf":
            written = hugging_face.export(source, encoder, output)
        else:
            from d2v.checkpoints.export import program

            print("tracing the model and comparing it at other sizes ...", file=sys.stderr, flush=True)
            written = program.export(source, encoder, output, args.format)
    print(f"{source.origin}; licence: {source.licence or 'your own weights'}")
    print("\n".join(f"  {line}" for line in written))
    print(f"written to {output}")
    if args.push is not None:
        print(f"pushed to {hub.push(output, args.push)}")
