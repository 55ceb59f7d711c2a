"""Which clips are trained on, validated on, and left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.dataset import too_many_broken
from d2v.errors import UserError
from d2v.modalities.speech.decoding import SAMPLE_RATE
from d2v.modalities.speech.headers import Headers
from d2v.modalities.speech.labels import Labels, Letters, class_labels, speakers_of, texts_of
from d2v.modalities.speech.sources import Clips

# Not data.seed: a probe must never be tested on what another run with another seed was trained on.
_HOLD_OUT_SEED = 0
# Of 10 minutes, 1 hour, 10 hours: each contains the shorter ones.
_SUBSET_SEED = 1


@dataclass(frozen=True)
class SpeechSplit:
    """Clips and their labels."""

    clips: Clips
    labels: Labels | None
    label_index: np.ndarray
    """int64 [n]: where the label of each clip stands in ``labels``."""

    def label(self, index: int) -> int | Tensor | None:
        return None if self.labels is None else self.labels[int(self.label_index[index])]

    def transcript(self, index: int) -> str | None:
        """As it was given; None if the labels are none or others."""
        return self.labels.text(int(self.label_index[index])) if isinstance(self.labels, Letters) else None

    def select(self, chosen: np.ndarray) -> "SpeechSplit":
        """Some of them: positions, or a mask."""
        return SpeechSplit(self.clips.select(chosen), self.labels, self.label_index[chosen])

    @property
    def hours(self) -> float:
        return float(self.clips.num_samples.sum()) / SAMPLE_RATE / 3600


def hold_out(clips: Clips, fraction: float, what: Literal["clips", "speakers"]) -> tuple[Clips, Clips]:
    """Divide into training and validation, always in the same way.

    Raises:
        UserError: nobody says who speaks, or a part would be empty.
    """
    if what == "clips":
        groups = np.arange(len(clips))
        number = len(clips)
    else:
        speakers = speakers_of(clips)
        if speakers is None:
            raise UserError(
                f"data.hold_out is speakers, but nothing says who speaks (first clip: {clips.name(0)}); the names of "
                "files must begin with SPEAKER-CHAPTER-NUMBER. Set it to clips."
            )
        present = np.unique(speakers.ids[speakers.ids >= 0])
        groups, number = np.searchsorted(present, speakers.ids), len(present)
        groups[speakers.ids < 0] = -1
    num_val = max(1, round(number * fraction))
    if num_val >= number:
        raise UserError(f"data.val_fraction {fraction}: of {number} {what} none would be left to train on.")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(_HOLD_OUT_SEED)).numpy()
    held_out = np.isin(groups, order[:num_val])
    return clips.select(~held_out), clips.select(held_out)


def shortest_subset(clips: Clips, hours: float) -> np.ndarray:
    """Positions, ascending, of clips drawn by a fixed seed until they last so long; a longer subset contains it."""
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(_SUBSET_SEED)).numpy()
    total = np.cumsum(clips.num_samples[order])
    enough = int(np.searchsorted(total, round(hours * 3600 * SAMPLE_RATE))) + 1
    return np.sort(order[:enough])


def labelled(
    name: str, clips: Clips, kind: str | None, train: Labels | None, alphabet: Alphabet | None
) -> tuple[SpeechSplit, int]:
    """Give clips their labels; those without one are left out.

    Returns:
        The split, and how many were left out.
    """
    if kind is None:
        return SpeechSplit(clips, None, np.arange(len(clips))), 0
    if kind == "transcript":
        assert alphabet is not None
        texts = texts_of(clips)
        kept = np.array([index for index, text in enumerate(texts) if text], dtype=np.int64)
        if len(kept) == 0:
            raise UserError(
                f"data.labels is transcript, but no clip of the {name} split has one (first clip: {clips.name(0)}): "
                "they stand in *.trans.txt or STEM.txt beside the clips, or in .ltr or .wrd beside a manifest."
            )
        present = [text for text in texts if text]
        alphabet.report_unknown(present)
        labels: Labels = Letters(alphabet, present)
    else:
        kept, labels = class_labels(kind, clips, None if train is None else train.names)
    return SpeechSplit(clips.select(kept), labels, np.arange(len(kept))), len(clips) - len(kept)


def report_headers(name: str, headers: Headers, max_fraction: float) -> None:
    """Say what the files are like.

    Raises:
        UserError: too many are broken, or all.
    """
    clips, broken = headers
    source = clips.source
    first = [f"{source.name(index)}: {reason}" for index, reason in list(broken.items())[:5]]
    if too_many_broken(len(broken), len(source), max_fraction) or not len(clips):
        raise UserError(
            f"data: {len(broken):,} of {len(source):,} files of {name} cannot be read: more than "
            f"data.max_skipped_fraction = {max_fraction}. The first are:\n  "
            + "\n  ".join(first)
            + "\nRestore or remove "
            "them, or raise the fraction."
        )
    for line in first:
        rank_zero_info(f"data: left out {line}")
    for rate in np.unique(clips.sample_rate[clips.sample_rate != SAMPLE_RATE]):
        which = np.flatnonzero(clips.sample_rate == rate)
        rank_zero_info(
            f"data: resampling {rate:,} Hz to {SAMPLE_RATE:,} Hz: {len(which):,} of {len(clips):,} clips "
            f"(first: {clips.name(int(which[0]))})"
        )
    several = np.flatnonzero(clips.channels > 1)
    if len(several):
        rank_zero_info(
            f"data: averaging the channels of {len(several):,} of {len(clips):,} clips "
            f"(first: {clips.name(int(several[0]))})"
        )


def describe(name: str, split: SpeechSplit, left_out: Sequence[tuple[int, str]]) -> None:
    """One line on what a split holds."""
    speakers = speakers_of(split.clips)
    text = f"data: {name}: {len(split.clips):,} clips, {split.hours:,.2f} h"
    if speakers is not None:
        text += f", {len(np.unique(speakers.ids[speakers.ids >= 0])):,} speakers"
    reasons = ", ".join(f"{count:,} {reason}" for count, reason in left_out if count)
    rank_zero_info(text + (f"; left out: {reasons}" if reasons else ""))
