"""Pictures that features are wanted of: a folder, a file, a glob or archives."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from d2v.data.dataset import BrokenSample
from d2v.data.files import PackedStrings, fingerprint, list_files
from d2v.data.inputs import Inputs
from d2v.data.normalisation import IMAGENET, read_normalisation
from d2v.errors import UserError
from d2v.modalities.vision.archives import ParquetSource, TarSource
from d2v.modalities.vision.decoding import IMAGE_SUFFIXES, decode_image
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.modalities.vision.sources import ImageSource
from d2v.modalities.vision.transforms import EvalTransform
from d2v.model.encoder import Encoder


def open_inputs(root: str, encoder: Encoder) -> "VisionInputs":
    """Find all pictures, whatever split they belong to.

    Args:
        root: a folder (all pictures in it and below; else its Hugging Face parquet files, else its WebDataset tars), a
            picture, a .parquet or .tar file, or a glob of pictures.
        encoder: of pictures.

    Raises:
        UserError: there are none.
    """
    path = Path(root).expanduser()
    try:
        if path.is_dir():
            return _from_folder(path, encoder)
        if path.is_file():
            return _from_file(path, encoder)
    except UserError as error:
        raise UserError(str(error).replace("data.root", "--input")) from error
    if not glob.has_magic(root):
        raise UserError(f"--input {root} does not exist; give a folder, a picture, a glob, a .parquet or a .tar file")
    found = sorted(name for name in glob.glob(str(path), recursive=True) if name.lower().endswith(IMAGE_SUFFIXES))
    found = [os.path.abspath(name) for name in found if os.path.isfile(name)]
    if not found:
        raise UserError(f"--input: no picture ({', '.join(IMAGE_SUFFIXES)}) matches {root}")
    folder = os.path.commonpath([os.path.dirname(name) for name in found])
    return _of_files(folder, [os.path.relpath(name, folder) for name in found], encoder)


class VisionInputs(Inputs):
    """Normalised pixels [3, H, W]: resized and cropped as in validation, at the size that the encoder was made for.

    Args:
        source: of the pictures.
        ids: of each.
        files: that they lie in.
        archives: those of the files that hold several pictures.
        encoder: of pictures.
    """

    unit = "picture"
    part = "patch"

    def __init__(
        self,
        source: ImageSource,
        ids: list[str],
        files: Sequence[str],
        archives: Sequence[str],
        encoder: Encoder,
    ) -> None:
        super().__init__(ids, {})
        self.archives = archives
        self._source, self._files = source, files
        front = encoder.front
        assert isinstance(front, VisionFrontEnd)
        self._patch = front.patch_size
        self._normalisation = read_normalisation(encoder.assets) or IMAGENET
        self.resize(*front.image_size)

    def resize(self, height: int, width: int) -> None:
        if min(height, width) < self._patch or height % self._patch or width % self._patch:
            raise UserError(
                f"--image_size {height},{width}: the encoder cuts pictures into patches of {self._patch} pixels; give "
                f"multiples of {self._patch}"
            )
        self.image_size = (height, width)
        self.num_parts = (height // self._patch) * (width // self._patch)
        self._transform = EvalTransform(self.image_size, *self._normalisation)

    def fingerprint(self) -> str:
        return fingerprint(self._files)

    def read(self, index: int, start: int, stop: int | None) -> Float[Tensor, "3 h w"]:
        data, _ = self._source.read(index)
        try:
            return self._transform(decode_image(data, self._transform.smallest_side))
        except BrokenSample:
            raise
        except Exception as error:  # PIL at a picture of strange shape, one pixel high and a million wide, say
            raise BrokenSample(f"it cannot be resized: {error}") from error


class _Pictures(ImageSource):
    """Files of a folder, without labels."""

    def __init__(self, folder: str, files: Sequence[str]) -> None:
        self._folder, self._files = folder, PackedStrings(files)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int | None]:
        try:
            return Path(self.name(index)).read_bytes(), None
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        return os.path.join(self._folder, self._files[index])


def _from_folder(folder: Path, encoder: Encoder) -> VisionInputs:
    if files := list_files(folder, IMAGE_SUFFIXES):
        return _of_files(str(folder), files, encoder)
    for suffix, open_archives in ((ParquetSource.suffix, _of_parquet), (TarSource.suffix, _of_tars)):
        if archives := list_files(folder, (suffix,)):
            return open_archives(folder, [folder / name for name in archives], encoder)
    raise UserError(
        f"--input: no picture ({', '.join(IMAGE_SUFFIXES)}), no .parquet and no .tar file in {folder} or below"
    )


def _from_file(path: Path, encoder: Encoder) -> VisionInputs:
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return _of_files(str(path.parent), [path.name], encoder)
    if suffix == ParquetSource.suffix:
        return _of_parquet(path.parent, [path], encoder)
    if suffix == TarSource.suffix:
        return _of_tars(path.parent, [path], encoder)
    raise UserError(f"--input {path}: of no known kind; give a picture ({', '.join(IMAGE_SUFFIXES)}), .parquet or .tar")


def _of_files(folder: str, files: list[str], encoder: Encoder) -> VisionInputs:
    source = _Pictures(folder, files)
    paths = [source.name(index) for index in range(len(source))]
    return VisionInputs(source, [_printable(file) for file in files], paths, (), encoder)


def _of_parquet(folder: Path, files: list[Path], encoder: Encoder) -> VisionInputs:
    """Rows are called what their files were, if that tells them apart; else by their number from 0."""
    source = ParquetSource(files)
    paths = source.paths()
    distinct = all(paths) and len(set(paths)) == len(paths)
    ids = [_printable(path) if distinct and path else str(number) for number, path in enumerate(paths)]
    names = [str(file) for file in files]
    return VisionInputs(source, ids, names, names, encoder)


def _of_tars(folder: Path, files: list[Path], encoder: Encoder) -> VisionInputs:
    """Members are called ``TAR/MEMBER``, the tar by its path below the input."""
    source = TarSource(files)
    places = (source.place(index) for index in range(len(source)))
    ids = [_printable(f"{os.path.relpath(tar, folder)}/{member}") for tar, member in places]
    names = [str(file) for file in files]
    return VisionInputs(source, ids, names, names, encoder)


def _printable(name: str) -> str:
    """Bytes that are not UTF-8 are escaped: \\udcff."""
    return name.encode(errors="backslashreplace").decode()
