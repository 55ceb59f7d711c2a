"""``d2v embed``: features of files, in one file."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.commands.arguments import add_features, find_device
from d2v.errors import Interrupted, UserError
from d2v.features.options import (
    FeatureOptions,
    bound_memory,
    default_workers,
    open_inputs,
    plan_lengths,
    settings_of,
)

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import torch

    from d2v.data.encoder_inputs import Inputs
    from d2v.features.journal import RowJournal
    from d2v.features.pieces import Pieces
    from d2v.model.encoder import Encoder

_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "The output has a row an input: id, embedding, num_patches of pictures, num_frames and duration (seconds) of "
        "sound, num_tokens of text. Pictures and sound are named by their path below the input, pictures of a tar as "
        "TAR/MEMBER, rows of parquet by the path that they state or by their number. Text: each .txt file of a folder "
        "or glob is one, named by its path; each line of a .txt file or of stdin, by its number from 1; each row of a "
        ".tsv, .csv, .jsonl or .parquet file, by its column id or its number from 0. Pictures are resized and cropped "
        "as in validation. What is longer than --chunk_seconds or than the encoder's positions is encoded in "
        "overlapping pieces, whose middles are kept. With --pool none, embedding holds a vector a patch (row by row "
        "from the top left), frame or token, and times the seconds of the frames' centres; in Parquet, an input of "
        "more than 15,000 of them (five minutes) is then several rows, which first_patch, first_frame or first_token "
        "puts in order. In NPZ and safetensors, those of input i are embedding[offsets[i]:offsets[i + 1]]. "
        "Until it is complete, what is done lies in OUTPUT.unfinished: the same command goes on there after any "
        "interruption, and gives the same features to the last bit."
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="checkpoint, run or imported folder")
    parser.add_argument(
        "--input",
        required=True,
        metavar="DIR|FILE|GLOB|-",
        help="pictures or sound, or archives of them that training reads; text, also a table of it, - for lines of "
        "stdin",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE", help="ends with .parquet, .npz or .safetensors"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace other features in --output, finished or unfinished"
    )
    add_features(parser)
    parser.add_argument(
        "--pool",
        choices=("mean", "cls", "none"),
        default="mean",
        help="of the patches, frames or tokens of an input (mean); cls: the CLS token of pictures, the output at <s> "
        "of text; none: keep all",
    )
    parser.add_argument(
        "--image_size", type=_image_size, metavar="N|H,W", help="pixels of pictures; default: the encoder's"
    )
    parser.add_argument(
        "--chunk_seconds", type=float, default=30.0, help="longer sound is encoded in pieces of so many seconds (30)"
    )
    parser.add_argument(
        "--overlap_seconds", type=float, default=5.0, help="that neighbouring pieces of sound share (5)"
    )
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="to compute in; the output is fp32")
    parser.add_argument(
        "--num_workers", type=int, help="processes that read files; 0: this one; default: by the cores and the device"
    )


def run(args: argparse.Namespace) -> None:
    """Embed, print how it goes, and what was written.

    Raises:
        UserError: An argument is wrong, no input could be embedded, or the output holds other features.
        Interrupted: Ctrl-C; what is done is kept.
    """
    from d2v.checkpoints.load import load
    from d2v.features.files import require_format, write_features
    from d2v.features.journal import RowJournal
    from d2v.features.pieces import Pieces

    require_format(args.output)
    if args.num_workers is not None and args.num_workers < 0:
        raise UserError(f"--num_workers {args.num_workers}: give 0 or more")
    bound_memory()
    options = FeatureOptions.of(args)
    device = find_device(args.device)
    encoder = load(args.checkpoint, weights=args.weights).to(device)
    inputs = open_inputs(encoder, args.input, options)
    _check_output(args.output, args.input, inputs)
    pieces = Pieces(inputs, encoder, plan_lengths(inputs, device, options))
    settings = settings_of(encoder, inputs, device, options, args.checkpoint, args.input)
    unfinished = args.output.with_name(f"{args.output.name}.unfinished")
    if _is_done(args.output, unfinished, settings, args.overwrite):
        print(f"{args.output} has these features already: nothing is to do")
        return
    journal = RowJournal(unfinished, settings, encoder.width, args.pool != "none")
    start = time.perf_counter()
    first = journal.num_done
    try:
        skipped = _Skipped(inputs, journal.num_skipped)
        _embed(encoder, pieces, journal, skipped, device, args)
        if not journal.num_vectors:
            journal.remove()
            raise UserError(
                f"--input {args.input}: not one of {skipped.count} {inputs.unit}s could be embedded; see above"
            )
        write_features(args.output, journal, settings, inputs.part)
        shape = [journal.num_vectors, encoder.width]
        journal.remove()
    except KeyboardInterrupt as stop:
        done = f"{journal.num_done:,} of {len(inputs):,} {inputs.unit}s are done; the same command goes on from there"
        raise Interrupted(f"interrupted: {done}", signal.SIGINT) from stop
    finally:
        journal.close()
    seconds = time.perf_counter() - start
    done, speed = _summary(inputs, skipped, first, seconds)
    print(f"{done}: embedding {shape} float32 in {args.output} ({seconds:.1f} s, {speed})")


def _image_size(text: str) -> tuple[int, int]:
    sides = [int(side) for side in text.split(",")]
    if len(sides) > 2:
        raise ValueError
    return sides[0], sides[-1]


def _check_output(output: Path, root: str, inputs: "Inputs") -> None:
    """Raise a UserError if the output is an archive that is read, or would be one in a folder of such."""
    source = Path(root).expanduser()
    read = (path for path in (source, *map(Path, inputs.archives)) if path.exists())
    is_read = output.exists() and any(path.samefile(output) for path in read)
    beside = source.is_dir() and output.resolve().is_relative_to(source.resolve())
    if is_read or (beside and any(path.endswith(output.suffix) for path in inputs.archives)):
        raise UserError(f"--output {output} would be part of --input {root}: give another place")


def _is_done(output: Path, unfinished: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the output is there; if not, other features that are in the way are removed, or only told of.

    Raises:
        UserError: The output or what is unfinished holds other features, and they are not to be overwritten.
    """
    from d2v.features.journal import discard, read_settings
    from d2v.features.settings import differences
    from d2v.features.table import read_file_settings

    begun = read_settings(unfinished)
    other_begun = [] if begun is None else differences(settings, begun)
    if output.exists() and not overwrite:
        if others := differences(settings, read_file_settings(output)):
            raise UserError(
                f"--output {output} holds other features ({'; '.join(others)}): give another name, or --overwrite to "
                "replace them"
            )
        if begun is not None and not other_begun:
            discard(unfinished)  # all but deleted when it was interrupted
        return True
    if other_begun and not overwrite:
        raise UserError(
            f"--output {output}: {unfinished.name} beside it holds the beginning of other features "
            f"({'; '.join(other_begun)}): give another name, or --overwrite to begin anew"
        )
    if other_begun or (begun is None and unfinished.is_dir()):
        discard(unfinished)
    return False


class _Skipped:
    """Inputs that could not be embedded: the first are named, all are counted."""

    def __init__(self, inputs: "Inputs", before: int) -> None:
        self.count = before
        """Those that were named when the run was begun are only counted."""
        self._named = 0
        for name, reason in inputs.broken.items():
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        from tqdm import tqdm

        self.count += 1
        self._named += 1
        if self._named <= _NAMED:
            tqdm.write(f"skipped {name}: {reason}", file=sys.stderr)
        elif self._named == _NAMED + 1:
            tqdm.write("more are skipped, and only counted from here on", file=sys.stderr)


def _embed(
    encoder: "Encoder",
    pieces: "Pieces",
    journal: "RowJournal",
    skipped: _Skipped,
    device: "torch.device",
    args: argparse.Namespace,
) -> None:
    """Write all rows that are not there yet."""
    import torch
    from tqdm import tqdm

    from d2v.features.encode import Progress, Skipped, embed_inputs

    inputs, first = pieces.inputs, journal.num_done
    rate = inputs.sample_rate
    if first:
        print(f"going on: {first:,} of {len(inputs):,} {inputs.unit}s are done", file=sys.stderr)
    bar = tqdm(
        initial=round(_amount(inputs, 0, first), 1),
        total=round(_amount(inputs, 0, len(inputs)), 1),
        desc="embedding",
        unit="s" if rate is not None else inputs.part if inputs.is_cut else inputs.unit,
        unit_scale=inputs.is_cut,
        disable=None,
        leave=False,
    )
    autocast = torch.bfloat16 if args.precision == "bf16" else None
    workers = default_workers(device) if args.num_workers is None else args.num_workers
    with bar:
        for item in embed_inputs(
            encoder, pieces, device, args.layer, args.pool, autocast, workers, journal.folder, first
        ):
            if isinstance(item, Progress):
                bar.update(item.amount)
            elif isinstance(item, Skipped):
                journal.skip(item.name)
                skipped.add(item.name, item.reason)
            else:
                journal.write(item)


def _amount(inputs: "Inputs", first: int, last: int) -> float:
    """Seconds, samples or inputs of some inputs, whichever they are counted in."""
    if not inputs.is_cut:
        return last - first
    return sum(inputs.num_samples(index) for index in range(first, last)) / (inputs.sample_rate or 1)


def _summary(inputs: "Inputs", skipped: _Skipped, first: int, seconds: float) -> tuple[str, str]:
    """What was done, and how fast since the first input of this run."""
    done = len(inputs) + len(inputs.broken) - skipped.count
    what = f"{done:,} {inputs.unit}{'' if done == 1 else 's'}"
    length, now = _amount(inputs, 0, len(inputs)), _amount(inputs, first, len(inputs))
    if inputs.sample_rate is not None:
        what += f", {length / 3600:.2f} hours" if length >= 3600 else f", {length:.1f} seconds"
        speed = f"{now / seconds:,.0f} times real time"
    elif inputs.is_cut:
        what += f", {length:,.0f} {inputs.part}s"
        speed = f"{now / seconds:,.0f} {inputs.part}s a second"
    else:
        speed = f"{now / seconds:,.0f} {inputs.unit}s a second"
    if skipped.count:
        what += f" ({skipped.count:,} skipped)"
    return what, speed
