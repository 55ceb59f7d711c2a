"""What features are wanted of: inputs in a fixed order, read whole or in parts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from d2v.errors import UserError


class Inputs(ABC):
    """Inputs for an encoder, cheap to send to a worker process.

    A modality offers them in its module ``inputs`` by a function ``open_inputs(root: str, encoder: Encoder)``, which
    `d2v embed` finds beside the encoder. What cannot be opened at all is not counted, but named in :attr:`broken`.
    Samples are what long inputs are cut at: values of a waveform, or tokens of a text.
    """

    sample_rate: int | None = None
    """Samples a second; None: inputs have no duration."""
    longest: int | None = None
    """Samples that the encoder takes at once; None: as many as one likes, or there are no samples to cut at."""
    unit: str = "file"
    """What one input is called."""
    part: str = "frame"
    """What one of the vectors is called that an input has before pooling."""
    num_parts: int | None = None
    """How many of them each input has, where all inputs have one shape and are read whole."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels at which pictures are read; None: they are no pictures."""

    archives: Sequence[str] = ()
    """Files that hold several inputs each; none where each input is a file."""

    def __init__(self, names: list[str], broken: dict[str, str]) -> None:
        self.names = names
        """Ids, in the order of the results."""
        self.broken = broken
        """Why each of the others cannot be read."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_cut(self) -> bool:
        """Whether long inputs are read in parts; else each is read whole."""
        return self.sample_rate is not None or self.longest is not None

    def resize(self, height: int, width: int) -> None:
        """Read pictures at another size, in pixels.

        Raises:
            UserError: they are no pictures, or the encoder does not take them at this size.
        """
        raise UserError("--image_size: the encoder of --checkpoint reads no pictures; leave it out")

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the content of an input does."""

    def num_samples(self, index: int) -> int:
        """Length of an input in samples; only where there are any."""
        raise NotImplementedError

    @abstractmethod
    def read(self, index: int, start: int, stop: int | None) -> Tensor:
        """One input as the encoder wants it, without the batch dimension.

        Args:
            index: which.
            start: first sample.
            stop: behind the last sample; None: to the end.

        Raises:
            BrokenSample: it cannot be read.
        """
