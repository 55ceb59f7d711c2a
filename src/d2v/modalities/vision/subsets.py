"""Part of the training pictures, for learning from few labels."""

from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.sources.subsets import balanced_subset, size_of_share
from d2v.errors import UserError
from d2v.modalities.vision.sources import ImageSource, SubsetSource


def labelled_share(source: ImageSource, share: float) -> ImageSource:
    """A share of the pictures, of each class as many; the same ones in every run.

    Raises:
        UserError: They have no labels.
    """
    if source.labels is None:
        raise UserError(f"data.label_fraction is {share}: the training images have no labels; set it to 1")
    count = size_of_share(len(source), share, len(source.classes))
    subset = SubsetSource(source, balanced_subset(source.labels, len(source), count))
    _announce(subset, source, "drawn by a fixed seed for data.label_fraction")
    return subset


def named_subset(source: ImageSource, file: str) -> ImageSource:
    """The pictures that a text file names, a name a line: paths count by their last part.

    Raises:
        UserError: There is no such file, or a name in it is not among the pictures, or is several.
    """
    path = Path(file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"data.subset {file}: not readable ({error})") from error
    wanted = {line.strip().rpartition("/")[2] for line in lines if line.strip()}
    if not wanted:
        raise UserError(f"data.subset {file}: names no image; expected one file name a line")
    names = source.file_names()
    kept = np.array([index for index, name in enumerate(names) if name in wanted], dtype=np.int64)
    missing = sorted(wanted - {names[index] for index in kept})
    if missing:
        raise UserError(
            f"data.subset {file}: {len(missing):,} of its {len(wanted):,} names are not among the {len(source):,} "
            f"training images, whose names are like {names[0]}; the first: {', '.join(missing[:3])}"
        )
    if len(kept) > len(wanted):
        raise UserError(
            f"data.subset {file}: names {len(wanted):,} images, and {len(kept):,} training images have them; they "
            "must tell images apart, whatever folder these lie in"
        )
    subset = SubsetSource(source, kept)
    _announce(subset, source, f"named by {file}")
    return subset


def _announce(subset: SubsetSource, source: ImageSource, how: str) -> None:
    counts = ""
    if subset.labels is not None:
        sizes = np.bincount(subset.labels, minlength=len(source.classes))
        some = f"{sizes.min():,}" if sizes.min() == sizes.max() else f"{sizes.min():,} to {sizes.max():,}"
        counts = f", {some} of each of {len(sizes):,} classes"
    rank_zero_info(f"data: {len(subset):,} of {len(source):,} training images, {how}{counts}")
