"""From files to features: the function behind `d2v embed`."""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from d2v.checkpoints.load import Weights, load
from d2v.data.cores import available_cores, most_workers
from d2v.data.encoder_inputs import Inputs, inputs_module
from d2v.data.sources.source import Listed
from d2v.errors import Interrupted, UserError
from d2v.evaluation.frozen import find_device
from d2v.features.encode import Skipped, embed_inputs
from d2v.features.feature_files import read_file_settings, require_format, write_features
from d2v.features.feature_settings import SPACE_OPTIONS, FeatureOptions, all_settings, differences
from d2v.features.journal import RowJournal, discard, inputs_done, named_share, read_settings
from d2v.features.pieces import Pieces, plan_lengths
from d2v.features.shared_space import Projection, SharedSpace, medium_of, read_space, space_folder
from d2v.model.encoder import Encoder, Layer, Pooling
from d2v.progress_bar import Progress
from d2v.shares import ALONE, Share, ShareDone

_NAMED = 1_000  # so many skipped inputs are named; the others are counted


@dataclass(frozen=True)
class EmbedReport:
    """What :func:`embed_files` did; printed, it is the line that `d2v embed` shows."""

    output: Path
    created: bool
    """False if the output had these features already, and nothing was done."""
    shape: tuple[int, int] = (0, 0)
    """[n, D], of all vectors together."""
    num_inputs: int = 0
    """Inputs with features."""
    num_skipped: int = 0
    amount: str = ""
    """How many inputs, and how long they are, in words."""
    speed: str = ""
    seconds: float = 0.0
    """Duration of this call, loading the encoder left out."""

    def __str__(self) -> str:
        if not self.created:
            return f"{self.output} has these features already; there is nothing to do"
        skipped = ""
        if self.num_skipped:
            skipped = f" ({self.num_skipped:,} skipped)"
        where = f"embedding {list(self.shape)} float32 in {self.output}"
        return f"{self.amount}{skipped}: {where} ({self.seconds:.1f} s, {self.speed})"


def embed_files(
    checkpoint: str | Path,
    input: str | Path,
    output: str | Path,
    *,
    modality: str | None = None,
    space: str | Path | None = None,
    weights: Weights = "student",
    layer: Layer = None,
    pool: Pooling = "mean",
    image_size: tuple[int, int] | None = None,
    chunk_seconds: float = 30.0,
    overlap_seconds: float = 5.0,
    precision: Literal["32", "bf16"] = "32",
    device: str = "auto",
    num_workers: int | None = None,
    overwrite: bool = False,
    allow: Iterable[str] = (),
    share: Share = ALONE,
) -> EmbedReport | ShareDone:
    """Write the features of pictures, sound or texts to one file, in fp32, one row an input.

    Until the file is complete, finished rows lie in ``OUTPUT.unfinished``. However the process ended, the same call
    goes on from there, and the features are the same to the last bit. Inputs that are skipped are named on stderr.
    Of several processes each embeds its share of the inputs, and the last one puts the file together.

    Args:
        checkpoint: As :func:`d2v.load` takes it.
        input: A folder, file or glob of what the encoder reads, or archives as for training; ``-``: lines of stdin.
        output: Its name ends with .parquet, .npz or .safetensors.
        modality: Which encoder of a checkpoint that holds several.
        space: "shared": vectors of length 1 in the space of several media that :func:`d2v.align` made, [n, K]; or the
            folder of such a space. It says layer, pooling and weights. None: the encoder's own space.
        weights: The student's, or the teacher's.
        layer: End of a block, from 0 or as -1 from the last; the mean of several ([8, 9, 10, 11]) or of all ("mean");
            None: the output.
        pool: "mean" of the patches, frames or tokens, or "cls": one vector [D] an input; "none": all of them, [n, D],
            and for sound the times of their centres in seconds.
        image_size: Height and width of pictures in pixels; None: those of the encoder.
        chunk_seconds: Longer sound is encoded in pieces of so many seconds.
        overlap_seconds: Shared by neighbouring pieces of sound, whose middles are kept.
        precision: Precision to compute in.
        device: auto, cpu, cuda, cuda:1, mps.
        num_workers: Processes that read files; 0: this process reads; None: depends on the cores and the device.
        overwrite: Replace other features in the output, finished or unfinished.
        allow: Packages outside d2v whose classes the checkpoint may name; see :func:`d2v.load`.
        share: Which of several processes this is.

    Raises:
        UserError: An argument is wrong, no input could be embedded, or the output holds other features.
        Interrupted: Ctrl-C; what is done is kept.
    """
    output = Path(output)
    require_format(output)
    if num_workers is not None and not 0 <= num_workers <= most_workers():
        raise UserError(f"--num_workers {num_workers}: give 0 or more, for this machine at most {most_workers()}")
    options = FeatureOptions(weights, layer, pool, precision, chunk_seconds, overlap_seconds, image_size)
    if share.count > 1 and (overwrite or str(input) == "-"):
        option = "--overwrite" if overwrite else "--input -"
        raise UserError(f"{option} is for one process, and these are {share.count}: delete the output, or give files")
    if device == "auto" and share.count > 1 and torch.cuda.is_available():
        device = f"cuda:{share.local_rank % torch.cuda.device_count()}"
    where = find_device(device)
    shared: SharedSpace | None = None
    if space is not None:
        if (weights, layer, pool) != ("student", None, "mean"):
            raise UserError(f"--space {space}: says which weights, layer and pooling; leave these options out")
        shared = read_space(space_folder(space, checkpoint))
        weights = shared.weights
    encoder = load(checkpoint, weights=weights, modality=modality, allow=allow).to(where)
    projection: Projection | None = None
    if shared is not None:
        projection = shared.media[shared.adopt(encoder, checkpoint)]
        options = replace(options, layer=SPACE_OPTIONS.layer, pool=SPACE_OPTIONS.pool)
    pieces = open_pieces(encoder, str(input), options, where, cut_silence=projection is not None)
    inputs = pieces.inputs
    _require_other_place(output, str(input), inputs)
    settings = all_settings(encoder, inputs, where, options, str(checkpoint), str(input))
    settings["modality"] = modality or medium_of(encoder)
    num_values, pooled = encoder.width, pool != "none"
    if shared is not None and projection is not None:
        num_values = shared.width
        settings |= {"space": shared.digest, "space_folder": str(space), "pool": f"{projection.parts} parts"}
    unfinished = output.with_name(f"{output.name}.unfinished")
    if _is_done(output, unfinished, settings, overwrite, share):
        return EmbedReport(output, created=False)
    if num_workers is None:
        num_workers = _default_workers(where, share)
    begin, end = pieces.inputs_of(share)
    with _journal(unfinished, settings, num_values, pooled, share, end - begin, inputs.unit) as journal:
        start, first = time.perf_counter(), begin + journal.num_done
        skipped = _SkippedInputs(inputs)
        if journal.num_done:
            print(f"going on: {journal.num_done:,} of {end - begin:,} {inputs.unit}s are done", file=sys.stderr)
        done, total = (pieces.first_piece(index) - pieces.first_piece(begin) for index in (first, end))
        with Progress(initial=done, total=total, desc="embedding", unit="piece", leave=False) as bar:
            items = embed_inputs(encoder, pieces, where, options, num_workers, journal.folder, first, end, bar.update)
            if projection is not None:
                items = projection.rows(items, inputs.grid)
            for item in items:
                if isinstance(item, Skipped):
                    journal.skip()
                    skipped.add(item.name, item.reason)
                else:
                    journal.write(item)
        if share.count == 1:
            shape, num_skipped = _write_output(journal, output, str(input), settings, inputs)
    if share.count > 1:
        with FileLock(unfinished / "last"):  # who ends at the same time waits
            if output.exists():
                discard(unfinished)  # nothing but this lock, which made the folder again
                return EmbedReport(output, created=False)
            left = len(inputs) - inputs_done(unfinished)
            if left:
                return ShareDone(share, output, left, len(inputs), f"{inputs.unit}s")
            whole = RowJournal(unfinished, settings, num_values, pooled)
            shape, num_skipped = _write_output(whole, output, str(input), settings, inputs)
    seconds = time.perf_counter() - start
    amount, speed = _in_words(inputs, len(inputs) - num_skipped, first, end, seconds)
    return EmbedReport(
        output, True, shape, len(inputs) - num_skipped, num_skipped + len(inputs.broken), amount, speed, seconds
    )


def _write_output(
    journal: RowJournal, output: Path, root: str, settings: dict[str, Any], inputs: Inputs
) -> tuple[tuple[int, int], int]:
    """Write the output, and remove the journal: the shape of the features, and how many inputs were skipped."""
    shape, skipped = (journal.num_vectors, journal.width), journal.num_skipped
    if not journal.num_vectors:
        journal.remove()
        count = skipped + len(inputs.broken)
        raise UserError(f"--input {root}: not one of {count} {inputs.unit}s could be embedded; see above")
    write_features(output, journal, settings, inputs.part)
    journal.remove()
    return shape, skipped


def open_pieces(
    encoder: Encoder, root: str | Listed, options: FeatureOptions, device: torch.device, cut_silence: bool = False
) -> Pieces:
    """Open a folder, a file, a glob or what is listed as the encoder reads it, cut into pieces.

    For a shared space silence at both ends of sound is cut off (``cut_silence``).

    Raises:
        UserError: There are no such inputs, the modality has no such module, or the pieces are too short.
    """
    module = inputs_module(encoder)
    if module is None:
        class_path = encoder.recipe["front"]["class_path"]
        raise UserError(f"--checkpoint: nothing here reads what {class_path} encodes; a module inputs beside it would")
    inputs = module.open_inputs(root, encoder)
    if options.image_size is not None:
        inputs.resize(*options.image_size)
    if cut_silence:
        inputs.cut_silence()
    return Pieces(inputs, encoder, plan_lengths(inputs, device, options))


@contextmanager
def _journal(
    folder: Path, settings: dict[str, Any], width: int, pooled: bool, share: Share, num_inputs: int, unit: str
) -> Iterator[RowJournal]:
    """Open a journal, and close it whatever happens; after Ctrl-C, say how to go on."""
    name = named_share(share.rank) if share.count > 1 else ""
    journal = RowJournal(folder, _of_share(settings, share), width, pooled, name)
    try:
        yield journal
    except KeyboardInterrupt as stop:
        done = f"{journal.num_done:,} of {num_inputs:,} {unit}s are done; the same command goes on from there"
        raise Interrupted(f"interrupted: {done}", signal.SIGINT) from stop
    finally:
        journal.close()


def _require_other_place(output: Path, root: str, inputs: Inputs) -> None:
    """Raise a UserError if the output is one of the archives that are read, or would lie in a folder of them."""
    source = Path(root).expanduser()
    beside = source.is_dir() and output.resolve().is_relative_to(source.resolve())
    is_read = source.exists() and output.exists() and source.samefile(output)
    for name in inputs.archives:
        archive = Path(name)
        is_read |= output.exists() and archive.exists() and archive.samefile(output)
        is_read |= beside and name.endswith(output.suffix)
    if is_read:
        raise UserError(f"--output {output} would be part of --input {root}: give another place")


def _of_share(settings: dict[str, Any], share: Share) -> dict[str, Any]:
    """How many processes share the work is part of how it goes on, and nothing that the features depend on."""
    return settings if share.count == 1 else {**settings, "processes": share.count}


def _is_done(output: Path, unfinished: Path, settings: dict[str, Any], overwrite: bool, share: Share) -> bool:
    """Whether the output is complete already. If not, other unfinished features are removed where that is allowed.

    Raises:
        UserError: The output or what is unfinished holds other features, and they are not to be overwritten.
    """
    begun = read_settings(unfinished)
    other_begun = list[str]()
    if begun is not None:
        other_begun = differences(_of_share(settings, share), begun)
    if output.exists() and not overwrite:
        if others := differences(settings, read_file_settings(output)):
            raise UserError(
                f"--output {output} holds other features ({'; '.join(others)}): give another name, or --overwrite to "
                "replace them"
            )
        if begun is not None and not other_begun and share.count == 1:
            discard(unfinished)  # an earlier call was interrupted before it could delete it
        return True
    if other_begun and not overwrite:
        raise UserError(
            f"--output {output}: {unfinished.name} beside it holds the beginning of other features "
            f"({'; '.join(other_begun)}): give another name, or --overwrite to begin anew"
        )
    if other_begun or (begun is None and unfinished.is_dir() and share.count == 1):
        discard(unfinished)
    return False


class _SkippedInputs:
    """Names inputs that could not be embedded, the first of them.

    Args:
        inputs: Those that cannot be opened at all are named at once.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._named = 0
        for name, reason in inputs.broken.items():
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        self._named += 1
        if self._named <= _NAMED:
            Progress.write(f"skipped {name}: {reason}", file=sys.stderr)
        elif self._named == _NAMED + 1:
            Progress.write("more inputs are skipped; from here on they are only counted", file=sys.stderr)


def _length(inputs: Inputs, first: int, last: int) -> float:
    """Length of the inputs from ``first`` to ``last``: in seconds, else in samples, else their number."""
    if not inputs.is_cut:
        return last - first
    length = inputs.num_samples if inputs.sample_rate is None else inputs.seconds
    return sum(map(length, range(first, last)))


def _in_words(inputs: Inputs, num_inputs: int, first: int, end: int, seconds: float) -> tuple[str, str]:
    """How much was embedded, and how fast this call was."""
    amount = f"{num_inputs:,} {inputs.unit}s"
    if num_inputs == 1:
        amount = f"1 {inputs.unit}"
    length = _length(inputs, 0, len(inputs))
    rate = _length(inputs, first, end) / seconds
    if inputs.sample_rate is None:
        if not inputs.is_cut:
            return amount, f"{rate:,.0f} {inputs.unit}s a second"
        return f"{amount}, {length:,.0f} {inputs.part}s", f"{rate:,.0f} {inputs.part}s a second"
    if length >= 3600:
        return f"{amount}, {length / 3600:.2f} hours", f"{rate:,.0f} times real time"
    return f"{amount}, {length:.1f} seconds", f"{rate:,.0f} times real time"


def _default_workers(device: torch.device, share: Share) -> int:
    """Processes that read files: few on a CPU, whose cores the encoder needs; up to eight beside a GPU."""
    cores = available_cores() // share.local_count
    if device.type == "cpu":
        return max(1, cores // 8)
    return max(1, min(8, cores - 1))
