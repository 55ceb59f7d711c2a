"""Real English without a download: what the installed packages say about themselves, and which package says it."""

import importlib.metadata
import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2v.demo.docstrings import PYTHON, Documents, find_folder
from d2v.demo.folder import read_marker, write_marker
from d2v.errors import UserError

# Label: (distribution, licence). All of them are there where d2v is.
LABELLED = {
    PYTHON: (PYTHON, "PSF-2.0"),
    "torch": ("torch", "BSD-3-Clause"),
    "numpy": ("numpy", "BSD-3-Clause"),
    "scipy": ("scipy", "BSD-3-Clause"),
    "sklearn": ("scikit-learn", "BSD-3-Clause"),
    "pandas": ("pandas", "BSD-3-Clause"),
    "matplotlib": ("matplotlib", "Matplotlib's own, as Python's"),
    "sympy": ("sympy", "BSD-3-Clause"),
    "networkx": ("networkx", "BSD-3-Clause"),
    "wandb": ("wandb", "MIT"),
}
# Too few documents for a label of their own.
UNLABELLED = {
    "lightning": ("lightning", "Apache-2.0"),
    "torchmetrics": ("torchmetrics", "Apache-2.0"),
    "datasets": ("datasets", "Apache-2.0"),
    "huggingface_hub": ("huggingface_hub", "Apache-2.0"),
    "torchvision": ("torchvision", "BSD-3-Clause"),
    "torchaudio": ("torchaudio", "BSD-2-Clause"),
}
_FEWEST_LABELS = 8
# A label with less than this share of what the others have is none.
_SMALLEST_LABEL = 0.5

MASK = "package"
"""What stands for the name of every labelled package."""
_NAMES = re.compile(
    r"(?i)[a-z0-9]*(?:torch|numpy|scipy|scikits?[- ]learn|sklearn|pandas|matplotlib|sympy|networkx|wandb|python)"
    r"[a-z0-9]*|weights\s*(?:&|and)\s*biases|W&B|(?<![a-z0-9])(?:np|pd|plt|mpl|nx|pyplot)(?![a-z0-9])"
)


@dataclass(frozen=True)
class DemoSummary:
    """What the finished tree holds."""

    root: str
    documents: dict[str, int]
    """Of each split."""
    characters: int
    labels: dict[str, int]
    """Documents to train and to validate of each label."""
    created: bool
    """False if it was there already."""


def prepare_demo(root: str | Path, train_documents: int = 560, val_documents: int = 140) -> DemoSummary:
    """Write documents as raw text to pretrain on, and ten packages' as labelled texts: which package is it about?

    Docstrings and help topics of the standard library, PyTorch, NumPy and others are read from their source; nothing is
    imported. Copies are dropped, and a source file is wholly in one split. The names of the labelled packages, by which
    the label would be written in the text, are all replaced by "package". ``raw/train.txt`` and ``raw/val.txt`` have a
    blank line between documents, ``labelled/train.jsonl`` and ``labelled/val.jsonl`` a ``text`` and a ``label`` a line.
    The documents to validate are in no training file. The same versions of the packages give the same files; a finished
    tree of the same is left alone, another one is made anew.

    Args:
        root: folder to fill; it must be new, empty or of an earlier call.
        train_documents: at most so many of each package for training.
        val_documents: at most so many of each package for validation.

    Raises:
        UserError: the folder holds something else, or too few packages are installed with their source.
    """
    root = Path(root).expanduser()
    counts = {"train": train_documents, "val": val_documents}
    if min(counts.values()) < 1:
        raise UserError(f"train_documents {train_documents}, val_documents {val_documents}: both must be above 0.")
    versions = _versions()
    wanted = {"counts": counts, "versions": versions}
    stored = read_marker(root, "text", {*wanted, "summary"})
    if stored is not None:
        if stored["summary"] and stored == {**wanted, "summary": stored["summary"]} and _is_complete(root):
            return DemoSummary(str(root), **stored["summary"], created=False)
        for folder in ("raw", "labelled"):
            shutil.rmtree(root / folder, ignore_errors=True)
    collected = _collect(counts)
    labels = {name: len(found["train"]) for name, found in collected.items() if name in LABELLED}
    most = max(labels.values(), default=0)
    kept = [name for name, count in labels.items() if count > _SMALLEST_LABEL * most and collected[name]["val"]]
    if len(kept) < _FEWEST_LABELS:
        raise UserError(
            f"only {len(kept)} of {len(LABELLED)} packages are installed with documented source: {', '.join(kept)}. "
            "Install d2v with its dependencies from wheels or source, not as compiled files only"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_marker(root, "text", {**wanted, "summary": None})
    for split in counts:
        _write(
            root / "raw" / f"{split}.txt", "\n\n".join(text for found in collected.values() for text in found[split])
        )
        rows = ({"text": text, "label": name} for name in kept for text in collected[name][split])
        _write(root / "labelled" / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    (root / "README.md").write_text(_readme(versions))
    summary: dict[str, Any] = {
        "documents": {split: sum(len(found[split]) for found in collected.values()) for split in counts},
        "characters": sum(len(text) for found in collected.values() for split in counts for text in found[split]),
        "labels": {name: sum(map(len, collected[name].values())) for name in kept},
    }
    write_marker(root, "text", {**wanted, "summary": summary})
    return DemoSummary(str(root), **summary, created=True)


def mask_names(text: str) -> str:
    """Replace the names and usual abbreviations of the labelled packages, also as parts of other names."""
    return _NAMES.sub(MASK, text)


def _collect(counts: dict[str, int]) -> dict[str, dict[str, list[str]]]:
    """Documents by package and split; no source file is in both splits."""
    source = Documents(most_of_a_file=max(1, counts["train"] // 10))
    collected = {}
    with tqdm(total=len(_packages()) * sum(counts.values()), desc="reading docstrings", unit="document") as bar:
        for number, package in enumerate(_packages(), 1):
            files = source.of(package)
            # Those to validate are drawn first, so that copies of them are dropped from those to train on.
            collected[package] = {split: _take(files, counts[split]) for split in ("val", "train")}
            bar.update(number * sum(counts.values()) - bar.n)
    return collected


def _take(files: Iterator[list[str]], count: int) -> list[str]:
    """So many documents, if there are, of one source file after another."""
    taken: list[str] = []
    for documents in files:
        taken += map(mask_names, documents[: count - len(taken)])
        if len(taken) == count:
            break
    return taken


def _packages() -> list[str]:
    return [name for name in (*LABELLED, *UNLABELLED) if find_folder(name) is not None]


def _versions() -> dict[str, str]:
    distributions = {name: distribution for name, (distribution, _) in (LABELLED | UNLABELLED).items()}
    return {
        name: platform.python_version() if name == PYTHON else importlib.metadata.version(distributions[name])
        for name in _packages()
    }


def _is_complete(root: Path) -> bool:
    names = ("raw/train.txt", "raw/val.txt", "labelled/train.jsonl", "labelled/val.jsonl")
    return all((root / name).is_file() for name in names)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{text}\n", encoding="utf-8")


def _readme(versions: dict[str, str]) -> str:
    rows = "\n".join(
        f"| {name} | {version} | {licence} |"
        for name, version in versions.items()
        for _, licence in [(LABELLED | UNLABELLED)[name]]
    )
    return (
        "# Demo text of d2v\n\n"
        "Docstrings and help topics of packages that were installed here, written by `d2v prepare demo text`: real "
        "English of a narrow kind.\nLines were joined to paragraphs, copies left out, and the names of the labelled "
        f'packages replaced by "{MASK}".\nIt is the text of the packages and under their licences; their distributions '
        "hold them in full.\n\n"
        f"| package | version | licence |\n| --- | --- | --- |\n{rows}\n\n"
        "raw/train.txt, raw/val.txt: all documents, a blank line between two.\nlabelled/train.jsonl, "
        "labelled/val.jsonl: those of the packages with the most, each with the package that it documents.\nThe "
        "documents to validate come from other source files than those to train on.\n"
    )
