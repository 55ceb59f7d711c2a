"""What `d2v embed` reads: each recording whole."""

from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.sources.splits import open_everything
from d2v.model.encoder import Encoder
from sensors.data import RECORDINGS, read_recording


def open_inputs(root: str, encoder: Encoder) -> Inputs:
    """Find all recordings below a folder."""
    return SensorInputs(open_everything(root, RECORDINGS, "--input"))


class SensorInputs(Inputs):
    unit, part = "recording", "patch"

    def __init__(self, source) -> None:
        super().__init__(source.ids(), {})
        self.source = source

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def read(self, index: int, start: int, stop: int | None) -> Tensor:
        return read_recording(self.source, index)
