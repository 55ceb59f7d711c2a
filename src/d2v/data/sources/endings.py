"""What is read of a collection, and what is left out, by the endings of its files."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from lightning_utilities.core.rank_zero import rank_zero_only

from d2v.data.sources.source import Files, Medium, Source
from d2v.errors import some_of

log = logging.getLogger(__name__)

_NO_SAMPLES = (
    ".txt", ".tsv", ".csv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".toml", ".ini", ".cfg", ".md", ".rst", ".html",
    ".htm", ".pdf", ".log", ".py", ".ipynb", ".sh", ".m", ".mat", ".db", ".url", ".lnk", ".lab", ".textgrid", ".phn",
    ".wrd", ".ltr", ".eaf", ".stm", ".ctm", ".trs", ".cha", ".srt", ".vtt", ".rttm", ".scp", ".lst", ".list", ".m3u",
    ".cue", ".md5", ".sha256", ".npy", ".npz", ".pkl", ".part", ".tmp",
)  # fmt: skip
"""Endings of what usually lies beside samples: lists, texts, labels, code. Nobody misses these files."""
_NO_SAMPLES_NAMED = ("license", "readme", "copying", "changelog", "authors", "contributing", "makefile")


def divide(names: Iterable[str], medium: Medium) -> tuple[list[str], list[str]]:
    """Names of the files of a medium, and those that are left out."""
    samples, others = [], []
    for name in names:
        if name.lower().endswith(medium.suffixes):
            samples.append(name)
        else:
            others.append(name)
    return samples, others


def count_endings(names: Iterable[str]) -> Counter[str]:
    """How many files have which ending."""
    return Counter(_ending(name) or "without an ending" for name in names)


def in_words(endings: Counter[str]) -> str:
    """The endings of files, the most frequent first: 12 .png, 3 .jpg."""
    return ", ".join(f"{count:,} {kind}" for kind, count in endings.most_common())


def how_to_read(others: Sequence[str], medium: Medium) -> str:
    """What to do with files that are left out; nothing if they are no samples."""
    missed = list(filter(may_be_sample, others))
    if not missed:
        return ""
    kinds = sorted({os.path.splitext(name)[1] for name in missed if _ending(name) in medium.unreadable})  # also .HEIC
    if kinds:
        return medium.conversion.format(" ".join(f"*{kind}" for kind in kinds))
    return f"Rename those that are {medium.noun}: {some_of(medium.suffixes, 6)}"


def report_endings(where: str, medium: Medium, sources: Sequence[Source | None]) -> None:
    """Say in one line what is read and what is left out, unless all files that may be samples have one ending.

    Args:
        where: the collection, as the user gave it.
        medium: of the samples.
        sources: all that was opened of it.
    """
    endings = Counter[str]()
    others = set[str]()
    for source in sources:
        if isinstance(source, Files):
            endings.update(source.endings or count_endings(source.ids()))
            others.update(filter(may_be_sample, source.left_out))
    left_out = sorted(others)
    read = in_words(endings)
    if getattr(rank_zero_only, "rank", None) not in (None, 0) or not (left_out or "," in read):
        return
    text = f"data: {where}: reading {read}"
    if left_out:
        text += f"; left out: {in_words(count_endings(left_out))}. {how_to_read(left_out, medium)}"
    log.warning(text)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def may_be_sample(name: str) -> bool:
    """Whether somebody may miss a file of this name that is left out."""
    kind = _ending(name)
    return kind not in _NO_SAMPLES and not (kind == "" and os.path.basename(name).lower() in _NO_SAMPLES_NAMED)
