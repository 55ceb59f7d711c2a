"""``d2v embed``: features of files, in one file."""

import argparse
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.commands.arguments import add_features, find_device
from d2v.errors import UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import torch

    from d2v.data.inputs import Inputs
    from d2v.evaluation.feature_files import FeatureFile
    from d2v.evaluation.pieces import Lengths, Pieces
    from d2v.model.encoder import Encoder

_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "The output has a row an input: id, embedding, num_frames and duration (seconds) of sound, num_tokens of text. "
        "Sound is named by its path below the input. Text: each .txt file of a folder or glob is one, named by its "
        "path; each line of a .txt file or of stdin, by its number from 1; each row of a .tsv, .csv, .jsonl or "
        ".parquet file, by its column id or its number from 0. What is longer than --chunk_seconds or than the "
        "encoder's positions is encoded in overlapping pieces, whose middles are kept. With --pool none, embedding "
        "holds a vector a frame or token, and times the seconds of the frames' centres; in Parquet, an input of more "
        "than 15,000 of them (five minutes) is then several rows, which first_frame or first_token puts in order. In "
        "NPZ and safetensors, those of input i are embedding[offsets[i]:offsets[i + 1]]."
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="checkpoint, run or imported folder")
    parser.add_argument(
        "--input",
        required=True,
        metavar="DIR|FILE|GLOB|-",
        help="sound, or archives of it that training reads; text, also a table of it, - for lines of stdin",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="ends with .parquet, .npz or .safetensors"
    )
    add_features(parser)
    parser.add_argument(
        "--pool",
        choices=("mean", "cls", "none"),
        default="mean",
        help="of the frames or tokens of an input (mean); cls: the output at <s>, of text; none: keep all",
    )
    parser.add_argument(
        "--chunk_seconds", type=float, default=30.0, help="longer sound is encoded in pieces of so many seconds (30)"
    )
    parser.add_argument(
        "--overlap_seconds", type=float, default=5.0, help="that neighbouring pieces of sound share (5)"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="to compute in; the output is fp32")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read files; 0: this one (1)")


def run(args: argparse.Namespace) -> None:
    """Embed, print how it goes, and what was written.

    Raises:
        UserError: An argument is wrong, or no input could be embedded.
    """
    from d2v.checkpoints.load import load
    from d2v.evaluation.feature_files import FORMATS, open_feature_file
    from d2v.evaluation.pieces import Pieces

    if args.output.suffix.lower() not in FORMATS:
        raise UserError(f"--output {args.output}: its name must end with one of {', '.join(FORMATS)}")
    if args.num_workers < 0:
        raise UserError(f"--num_workers {args.num_workers}: give 0 or more")
    device = find_device(args.device)
    encoder = load(args.checkpoint, weights=args.weights).to(device)
    inputs = _open_inputs(encoder, args.input)
    _check_output(args.output, args.input, inputs)
    settings = {name: str(value) for name, value in vars(args).items() if value is not None}
    pieces = Pieces(inputs, encoder, _lengths(inputs, device, args))
    skipped = _Skipped(inputs)
    start = time.perf_counter()
    with open_feature_file(args.output, settings, inputs.part) as file:
        shape = _embed(encoder, pieces, file, skipped, device, args)
        if shape is None:
            raise UserError(
                f"--input {args.input}: not one of {skipped.count} {inputs.unit}s could be embedded; see above"
            )
    seconds = time.perf_counter() - start
    print(_summary(inputs, skipped, shape, seconds, args))


def _open_inputs(encoder: "Encoder", root: str) -> "Inputs":
    """By the module ``inputs`` of the folder that the encoder's class lies in: one modality, one folder."""
    package = encoder.recipe["class_path"].rpartition(".")[0].rpartition(".")[0]
    if find_spec(f"{package}.inputs") is None:
        raise UserError(
            f"--checkpoint: d2v embed cannot read what {encoder.recipe['class_path']} encodes, only sound and text yet"
        )
    return import_module(f"{package}.inputs").open_inputs(root, encoder)


def _lengths(inputs: "Inputs", device: "torch.device", args: argparse.Namespace) -> "Lengths | None":
    """Of pieces and batches; a processor is fastest on batches that fit its cache.

    Raises:
        UserError: The pieces that are asked for are too short for their overlap.
    """
    from d2v.evaluation.pieces import Lengths

    on_cpu = device.type == "cpu"
    if (rate := inputs.sample_rate) is not None:
        chunk, overlap = args.chunk_seconds, args.overlap_seconds
        if not 0 <= overlap < chunk:
            raise UserError(
                f"--chunk_seconds {chunk:g} and --overlap_seconds {overlap:g}: a piece must be longer than what it "
                "shares with the next, and that not below 0"
            )
        return Lengths(round(chunk * rate), round(overlap * rate), (15 if on_cpu else 60) * rate, 600 * rate)
    if inputs.longest is None:
        return None
    # The first token of a piece is never kept if two or more are shared.
    return Lengths(inputs.longest, max(2, inputs.longest // 4), 2_048 if on_cpu else 32_768, 2**18)


def _check_output(output: Path, root: str, inputs: "Inputs") -> None:
    """Raise a UserError if the output is an archive that is read, or would be one in a folder of such."""
    source = Path(root).expanduser()
    read = (path for path in (source, *map(Path, inputs.archives)) if path.exists())
    is_read = output.exists() and any(path.samefile(output) for path in read)
    beside = source.is_dir() and output.resolve().is_relative_to(source.resolve())
    if is_read or (beside and any(path.endswith(output.suffix) for path in inputs.archives)):
        raise UserError(f"--output {output} would be part of --input {root}: give another place")


class _Skipped:
    """Inputs that could not be embedded: the first are named, all are counted."""

    def __init__(self, inputs: "Inputs") -> None:
        self.count = 0
        for name, reason in inputs.broken.items():
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        from tqdm import tqdm

        self.count += 1
        if self.count <= _NAMED:
            tqdm.write(f"skipped {name}: {reason}", file=sys.stderr)
        elif self.count == _NAMED + 1:
            tqdm.write("more are skipped, and only counted from here on", file=sys.stderr)


def _embed(
    encoder: "Encoder",
    pieces: "Pieces",
    file: "FeatureFile",
    skipped: _Skipped,
    device: "torch.device",
    args: argparse.Namespace,
) -> tuple[int, ...] | None:
    """Write all rows; returns [inputs, D], or [frames, D] without pooling; None if there are none."""
    import torch
    from tqdm import tqdm

    from d2v.evaluation.embedding import Progress, Skipped, embed_inputs

    inputs = pieces.inputs
    rate = inputs.sample_rate
    total: float = len(inputs)
    if inputs.is_cut:
        total = sum(inputs.num_samples(index) for index in range(len(inputs))) / (rate or 1)
    autocast = torch.bfloat16 if args.precision == "bf16" else None
    count = width = 0
    bar = tqdm(
        total=round(total, 1),
        desc="embedding",
        unit="s" if rate is not None else inputs.part if inputs.is_cut else inputs.unit,
        unit_scale=inputs.is_cut,
        disable=None,
        leave=False,
    )
    with bar:
        for item in embed_inputs(
            encoder, pieces, device, args.layer, args.pool, autocast, args.num_workers, args.output.parent
        ):
            if isinstance(item, Progress):
                bar.update(item.amount)
            elif isinstance(item, Skipped):
                skipped.add(item.name, item.reason)
            else:
                file.write(item)
                count += 1 if item.features.ndim == 1 else len(item.features)
                width = item.features.shape[-1]
    return (count, width) if count else None


def _summary(
    inputs: "Inputs", skipped: _Skipped, shape: tuple[int, ...], seconds: float, args: argparse.Namespace
) -> str:
    done = len(inputs) + len(inputs.broken) - skipped.count
    what = f"{done:,} {inputs.unit}{'' if done == 1 else 's'}"
    speed = f"{seconds:.1f} s"
    length = sum(inputs.num_samples(index) for index in range(len(inputs))) if inputs.is_cut else 0
    if inputs.sample_rate is not None:
        sound = length / inputs.sample_rate
        what += f", {sound / 3600:.2f} hours" if sound >= 3600 else f", {sound:.1f} seconds"
        speed += f", {sound / seconds:,.0f} times real time"
    elif inputs.is_cut:
        what += f", {length:,} {inputs.part}s"
        speed += f", {length / seconds:,.0f} {inputs.part}s a second"
    if skipped.count:
        what += f" ({skipped.count:,} skipped)"
    return f"{what}: embedding {list(shape)} float32 in {args.output} ({speed})"
