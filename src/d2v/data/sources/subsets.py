"""Fixed parts of a data set, the same in every run whatever its seed: held-out samples, and subsets to train on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from d2v.data.permutation import permuted
from d2v.data.sources.source import Categories
from d2v.errors import UserError
from d2v.text_files import read_lines

# Not data.seed: runs with other seeds must be validated on the same samples, and trained on the same labels. A probe
# must never be tested on what another run was trained on.
HOLD_OUT_SEED, SUBSET_SEED = 0, 1
_CLASSES_SHOWN = 8


def permutation(count: int, seed: int) -> np.ndarray:
    """Numbers from 0 to ``count - 1`` in an order that depends on the seed alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()


def share_to_hold_out(fraction: float | None, has_split: bool) -> float:
    """``data.val_fraction`` as stated; None: a tenth, unless there is a validation split."""
    if fraction is None:
        return 0.0 if has_split else 0.1
    return fraction


def hold_out(total: int, fraction: float, noun: str, groups: np.ndarray | None = None) -> np.ndarray:
    """Choose the samples that are held out for validation: always the same ones, and at least one.

    Args:
        total: samples.
        fraction: of the samples, or of the groups.
        noun: what is divided, for messages.
        groups: int [total]: samples with the same number, such as all of one speaker, stay together; -1 is never held
            out. None: each sample stands alone.

    Returns:
        Mask [total].

    Raises:
        UserError: nothing would be left to train on.
    """
    names = np.arange(total)
    if groups is not None:
        names = np.unique(groups[groups >= 0])
    count = max(1, round(len(names) * fraction))
    if count >= len(names):
        raise UserError(f"data.val_fraction {fraction}: of {len(names)} {noun} none would be left to train on.")
    rank_zero_info(f"data: {count:,} of {len(names):,} {noun} are held out for validation, always the same ones")
    chosen = names[permuted(np.arange(count), len(names), HOLD_OUT_SEED)]
    if groups is not None:
        return np.isin(groups, chosen)
    mask = np.zeros(total, dtype=bool)
    mask[chosen] = True
    return mask


@dataclass(frozen=True)
class FewLabels:
    """Which part of the training samples is used: drawn with a fixed seed, or named. At most one field is given.

    A smaller part of the same data is contained in a larger one.
    """

    subset: str | None = None
    """Text file with the names of the samples, one on each line; of a path only the last part counts."""
    max_hours: float | None = None
    """This many hours."""
    max_samples: int | None = None
    """This many samples, with equally many of each class as far as possible."""
    label_fraction: float = 1.0
    """This share of the samples, balanced in the same way, with at least one of each class."""

    def __post_init__(self) -> None:
        if self.max_hours is not None and self.max_hours <= 0:
            raise UserError(f"data.max_hours is {self.max_hours}: it must be above 0, or null for all.")
        if self.max_samples is not None and self.max_samples < 2:
            raise UserError(f"data.max_samples is {self.max_samples}: it must be 2 or more, or null for all.")
        if not 0 < self.label_fraction <= 1:
            raise UserError(f"data.label_fraction is {self.label_fraction}: it must lie above 0 and at most at 1.")
        given = []
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value != setting.default:
                given.append((setting.name, value))
        if len(given) > 1:
            (one, value), (other, other_value) = given[:2]
            raise UserError(
                f"data.{one} is {value} and data.{other} {other_value}: set one of them, the other to null or 1."
            )

    def choose(
        self,
        noun: str,
        total: int,
        classes: Categories | None = None,
        lengths: np.ndarray | None = None,
        per_hour: int = 1,
        names: Callable[[], Sequence[str]] | None = None,
    ) -> np.ndarray | None:
        """Choose among the training samples, and say in the log what was chosen.

        Args:
            noun: what the samples are called: images.
            total: number of training samples.
            classes: classes of the samples; None: there are none to balance.
            lengths: int [total], length of each sample, for ``max_hours``.
            per_hour: length of one hour.
            names: gives the names of all samples, for ``subset``.

        Returns:
            int64 [n]: positions, ascending; None: all.

        Raises:
            UserError: a name in ``subset`` is not the name of a sample.
        """
        if self.subset is not None:
            assert names is not None
            kept, how = _named(self.subset, names(), noun), f"named by {self.subset}"
        elif self.max_hours is not None:
            assert lengths is not None
            order = permutation(total, SUBSET_SEED)
            enough = int(np.searchsorted(np.cumsum(lengths[order]), round(self.max_hours * per_hour))) + 1
            if enough > total:
                hours = lengths.sum() / per_hour
                rank_zero_warn(f"data.max_hours is {self.max_hours:g}, and there are only {hours:.2f} h: all are used")
                return None
            kept, how = np.sort(order[:enough]), f"drawn by a fixed seed for data.max_hours {self.max_hours:g}"
        elif self.max_samples is not None:
            if self.max_samples > total:
                rank_zero_warn(f"data.max_samples is {self.max_samples:,}, and there are only {total:,}: all are used")
                return None
            kept, how = _balanced(classes, total, self.max_samples), "drawn by a fixed seed for data.max_samples"
        elif self.label_fraction < 1:
            least = 1 if classes is None else len(classes.names)
            count = min(total, max(round(total * self.label_fraction), least))
            kept, how = _balanced(classes, total, count), "drawn by a fixed seed for data.label_fraction"
        else:
            return None
        rank_zero_info(f"data: {len(kept):,} of {total:,} training {noun}, {how}{_counts(classes, kept)}")
        return kept


def _balanced(classes: Categories | None, total: int, count: int) -> np.ndarray:
    """Positions of a subset, ascending, with equally many of each class as far as possible."""
    order = permutation(total, SUBSET_SEED)
    if classes is None:
        return np.sort(order[:count])
    numbers = classes.ids[order]
    by_class = np.argsort(numbers, kind="stable")
    _, first, sizes = np.unique(numbers[by_class], return_index=True, return_counts=True)
    # The place of each sample within its class: the subset takes the first of all classes, then the second ...
    place = np.empty(total, dtype=np.int64)
    place[by_class] = np.arange(total) - np.repeat(first, sizes)
    return np.sort(order[np.argsort(place, kind="stable")[:count]])


def _named(file: str, names: Sequence[str], noun: str) -> np.ndarray:
    """Positions of the samples that a text file names.

    Of several files of one name those are meant whose folders agree with the line as far up as any do.
    """
    wanted = []
    for line in read_lines(file, "data.subset"):
        if line.strip():
            wanted.append(line.strip().split("/"))
    if not wanted:
        raise UserError(f"data.subset {file}: it names nothing; expected the name of a file a line")
    by_name: dict[str, list[int]] = {path[-1]: [] for path in wanted}
    for index, name in enumerate(names):
        if (places := by_name.get(os.path.basename(name))) is not None:
            places.append(index)
    missing = sorted(name for name, places in by_name.items() if not places)
    if missing:
        raise UserError(
            f"data.subset {file}: {len(missing):,} of its {len(by_name):,} names are not among the {len(names):,} "
            f"training {noun}, whose names are like {os.path.basename(names[0])}; the first: {', '.join(missing[:3])}"
        )
    kept: set[int] = set()
    for path in wanted:
        places = by_name[path[-1]]
        agreeing = [_agreeing(path, names[index].split("/")) for index in places]
        most = max(agreeing)
        kept.update(index for index, parts in zip(places, agreeing, strict=True) if parts == most)
    if len(kept) > len(wanted):
        rank_zero_warn(
            f"data.subset {file}: it names {len(wanted):,} {noun}, and {len(kept):,} training {noun} have such names: "
            "all are taken. A line with folders, CLASS/NAME, tells them apart"
        )
    return np.array(sorted(kept), dtype=np.int64)


def _agreeing(path: list[str], other: list[str]) -> int:
    """How many parts, from the last on, two paths have in common."""
    common = 0
    for part, its in zip(reversed(path), reversed(other), strict=False):
        if part != its:
            break
        common += 1
    return common


def _counts(classes: Categories | None, kept: np.ndarray) -> str:
    """How many samples each class has."""
    if classes is None:
        return ""
    sizes = np.bincount(classes.ids[kept], minlength=len(classes.names))
    if len(sizes) <= _CLASSES_SHOWN:
        return ": " + ", ".join(f"{size:,} of {name}" for size, name in zip(sizes, classes.names, strict=True))
    least, most = sizes.min(), sizes.max()
    some = f"{least:,} to {most:,}"
    if least == most:
        some = f"{least:,}"
    return f": {some} of each of {len(sizes):,} classes"
