"""Inputs to compute features of: in a fixed order, read whole or in parts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from d2v.errors import UserError
from d2v.model.encoder import Encoder


def inputs_module(encoder: Encoder) -> ModuleType | None:
    """The module ``inputs`` beside an encoder's front end, so that there is no list of modalities; None: it has none.

    Its function ``open_inputs(root, encoder)`` opens what `d2v embed` reads, or what a table of pairs lists
    (:class:`~d2v.data.sources.source.Listed`), and its ``LABELLED`` is the DataModule, by class path and arguments,
    that labelled samples are read with where no config says otherwise.
    """
    front = encoder.recipe["front"]["class_path"].rpartition(".")[0]
    module = f"{front.rpartition('.')[0]}.inputs"
    return import_module(module) if find_spec(module) else None


class Inputs(ABC):
    """Inputs for an encoder, cheap to send to a worker process.

    A modality opens them with the function ``open_inputs(root: str | Listed, encoder: Encoder)`` of its module
    ``inputs``, which `d2v embed` finds beside the encoder. Inputs that cannot be opened are not counted, but named in
    :attr:`broken`. Long inputs are cut between samples: values of a waveform, or tokens of a text.
    """

    sample_rate: int | None = None
    """Samples a second; None: inputs have no duration."""
    longest: int | None = None
    """Most samples that the encoder takes at once; None: any number, or inputs have no samples."""
    unit: str = "file"
    """What one input is called."""
    part: str = "frame"
    """What one vector of an input before pooling is called."""
    num_parts: int | None = None
    """Number of vectors of each input, where all inputs have one shape and are read whole."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the vectors of each input, row by row; None: they are a sequence."""
    pads: bool = True
    """Whether parts of about the same length may be padded to share a batch; else only those of one length do."""
    vectors_per_frame: int = 1
    """Vectors of the encoder that stand for the same time."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels at which pictures are read; None: inputs are not pictures."""

    archives: Sequence[str] = ()
    """Files that hold several inputs each; none where each input is a file."""

    def __init__(self, names: list[str], broken: dict[str, str]) -> None:
        self.names = names
        """Ids, in the order of the results."""
        self.broken = broken
        """Inputs that cannot be opened, and why."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_cut(self) -> bool:
        """Whether long inputs are read in parts; else each is read whole."""
        return self.sample_rate is not None or self.longest is not None

    def resize(self, height: int, width: int) -> None:
        """Read pictures at another size, in pixels.

        Raises:
            UserError: the inputs are not pictures, or the encoder does not take this size.
        """
        raise UserError("--image_size: the encoder of --checkpoint reads no pictures; leave it out")

    def cut_silence(self) -> None:  # noqa: B027  (most inputs have none)
        """Leave out silence at both ends of each input, where inputs are sound."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content of an input does."""

    def num_samples(self, index: int) -> int:
        """Length of an input in samples; only for inputs that have samples."""
        raise NotImplementedError

    def seconds(self, index: int) -> float:
        """Duration of an input; only for inputs that have samples."""
        assert self.sample_rate is not None
        return self.num_samples(index) / self.sample_rate

    def frame_of(self, encoder: Encoder) -> tuple[int, int]:
        """Samples from one frame to the next, and samples that a frame is computed from."""
        extractor: Any = encoder.front.feature_extractor
        return extractor.stride, extractor.receptive_field

    @abstractmethod
    def read(self, index: int, start: int, stop: int | None) -> Tensor:
        """One input as the encoder takes it, without the batch dimension.

        Args:
            index: position of the input.
            start: first sample.
            stop: end, exclusive; None: the end of the input.

        Raises:
            BrokenSample: it cannot be read.
        """
