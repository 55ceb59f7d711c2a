"""Pictures that features are wanted of: a folder, a file, a glob or archives."""

from jaxtyping import UInt8
from torch import Tensor

from d2v.data.encoder_inputs import Inputs
from d2v.data.sources.source import Listed, Source
from d2v.data.sources.splits import open_everything
from d2v.errors import BrokenSample, UserError
from d2v.modalities.vision.decoding import IMAGES, Picture
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.modalities.vision.transforms import EvalTransform
from d2v.model.encoder import Encoder

LABELLED = {"class_path": "d2v.modalities.vision.data.ImageNetDataModule", "init_args": {}}
"""How labelled samples are read where no config says otherwise."""


def open_inputs(root: str | Listed, encoder: Encoder) -> "VisionInputs":
    """Find all pictures, whatever split they belong to.

    Args:
        root: a folder (all pictures in it and below; else its Hugging Face parquet files, else its WebDataset tars), a
            picture, a .parquet or .tar file, or a glob of pictures; or pictures that are listed.
        encoder: of pictures.

    Raises:
        UserError: there are none.
    """
    return VisionInputs(open_everything(root, IMAGES, "--input"), encoder)


class VisionInputs(Inputs):
    """Bytes of pixels [3, H, W]: resized and cropped as in validation, at the size that the encoder was made for.

    Args:
        source: of the pictures.
        encoder: of pictures.
    """

    unit = "picture"
    part = "patch"

    def __init__(self, source: Source, encoder: Encoder) -> None:
        super().__init__(source.ids(), {})
        self.archives = source.archives
        self._source = source
        front = encoder.front
        assert isinstance(front, VisionFrontEnd)
        self._patch = front.patch_size
        self.resize(*front.image_size)

    def resize(self, height: int, width: int) -> None:
        if min(height, width) < self._patch or height % self._patch or width % self._patch:
            raise UserError(
                f"--image_size {height},{width}: the encoder cuts pictures into patches of {self._patch} pixels; give "
                f"multiples of {self._patch}"
            )
        self.image_size = (height, width)
        self.grid = (height // self._patch, width // self._patch)
        self.num_parts = self.grid[0] * self.grid[1]
        self._transform = EvalTransform(self.image_size)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def read(self, index: int, start: int, stop: int | None) -> UInt8[Tensor, "3 h w"]:
        data = self._source.read(index)
        try:
            return self._transform(Picture(data))
        except BrokenSample:
            raise
        except Exception as error:  # PIL at a picture of strange shape, one pixel high and a million wide, say
            raise BrokenSample(f"it cannot be resized: {error}") from error
