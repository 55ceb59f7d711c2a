"""The text demo: real English without a download, from the docstrings of the installed packages."""

import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2v.demo.demo_folder import DemoFolder, DemoSummary
from d2v.demo.docstrings import PYTHON, Documents, find_folder
from d2v.errors import UserError
from d2v.progress_bar import Progress

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
# A package with less than this share of the largest one's documents gets no label.
_SMALLEST_LABEL = 0.5

MASK = "package"
"""What stands for the name of every labelled package."""
_NAMES = re.compile(
    r"(?i)[a-z0-9]*(?:torch|numpy|scipy|scikits?[- ]learn|sklearn|pandas|matplotlib|sympy|networkx|wandb|python)"
    r"[a-z0-9]*|weights\s*(?:&|and)\s*biases|W&B|(?<![a-z0-9])(?:np|pd|plt|mpl|nx|pyplot)(?![a-z0-9])"
)


def prepare_texts(root: str | Path, train_documents: int = 560, val_documents: int = 140) -> DemoSummary:
    """Write docstrings as raw text to pretrain on, and those of ten packages as labelled texts: which package is it?

    Docstrings and help topics of the standard library, PyTorch, NumPy and others are read from their source; nothing is
    imported. Copies are dropped, and a source file is wholly in one split. The names of the labelled packages, by which
    the label would be written in the text, are all replaced by "package". ``raw/train.txt`` and ``raw/val.txt`` have a
    blank line between documents, ``labelled/train.jsonl`` and ``labelled/val.jsonl`` a ``text`` and a ``label`` a line.
    The documents to validate are in no training file. The same versions of the packages give the same files; a finished
    tree of the same is left alone, another one is made anew.

    Args:
        root: folder to fill; it must be new, empty or of an earlier call.
        train_documents: most documents of each package to train on.
        val_documents: most documents of each package to validate on.

    Raises:
        UserError: the folder holds something else, or too few packages are installed with their source.
    """
    counts = {"train": train_documents, "val": val_documents}
    if min(counts.values()) < 1:
        raise UserError(f"train_documents {train_documents}, val_documents {val_documents}: both must be above 0.")
    versions = _versions()
    folder = DemoFolder(root, "text", {"counts": counts, "versions": versions}, ("raw", "labelled"))
    found = folder.finished()
    created = found is None
    if found is None:
        collected = _collect(counts)
        labels = _choose_labels(collected)
        folder.clear()
        (folder.root / "README.md").write_text(_readme(versions))
        found = folder.finish(_write_all(folder.root, collected, labels))
    documents, labels = found["documents"], found["labels"]
    text = (
        f"{documents['train']:,} documents to train on and {documents['val']:,} to validate, "
        f"{found['characters'] / 1e6:.1f} million characters; {sum(labels.values()):,} of them with one of "
        f"{len(labels)} labels ({', '.join(labels)})"
    )
    return DemoSummary(folder.root, created, found, text)


def mask_names(text: str) -> str:
    """Replace the names and usual abbreviations of the labelled packages, also as parts of other names."""
    return _NAMES.sub(MASK, text)


def _choose_labels(collected: dict[str, dict[str, list[str]]]) -> list[str]:
    """Packages with enough documents for a label of their own."""
    counts = {name: len(found["train"]) for name, found in collected.items() if name in LABELLED}
    most = max(counts.values(), default=0)
    chosen = []
    for name, count in counts.items():
        if count > _SMALLEST_LABEL * most and collected[name]["val"]:
            chosen.append(name)
    if len(chosen) < _FEWEST_LABELS:
        raise UserError(
            f"only {len(chosen)} of {len(LABELLED)} packages are installed with documented source: "
            f"{', '.join(chosen)}. Install d2v with its dependencies from wheels or source, not as compiled files only"
        )
    return chosen


def _write_all(root: Path, collected: dict[str, dict[str, list[str]]], labels: list[str]) -> dict[str, Any]:
    """Write the files, and count documents of each split, characters, and documents of each label."""
    documents, characters, of_label = {}, 0, dict.fromkeys(labels, 0)
    for split in ("train", "val"):
        texts, rows = list[str](), list[str]()
        for name, found in collected.items():
            texts += found[split]
            if name in of_label:
                of_label[name] += len(found[split])
                rows += [json.dumps({"text": text, "label": name}) for text in found[split]]
        documents[split] = len(texts)
        characters += sum(map(len, texts))
        _write(root / "raw" / f"{split}.txt", "\n\n".join(texts))
        _write(root / "labelled" / f"{split}.jsonl", "\n".join(rows))
    return {"documents": documents, "characters": characters, "labels": of_label}


def _collect(counts: dict[str, int]) -> dict[str, dict[str, list[str]]]:
    """Documents by package and split; no source file is in both splits."""
    source = Documents(most_of_a_file=max(1, counts["train"] // 10))
    collected = {}
    with Progress(total=len(_packages()) * sum(counts.values()), desc="reading docstrings", unit="document") as bar:
        for number, package in enumerate(_packages(), 1):
            files = source.of(package)
            # Validation documents are drawn first, so that their copies are dropped from the training documents.
            collected[package] = {split: _take(files, counts[split]) for split in ("val", "train")}
            bar.update(number * sum(counts.values()) - bar.n)
    return collected


def _take(files: Iterator[list[str]], count: int) -> list[str]:
    """At most ``count`` documents, from one source file after the other."""
    taken: list[str] = []
    for documents in files:
        taken += map(mask_names, documents[: count - len(taken)])
        if len(taken) == count:
            break
    return taken


def _packages() -> list[str]:
    return [name for name in (*LABELLED, *UNLABELLED) if find_folder(name) is not None]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _packages():
        distribution, _ = (LABELLED | UNLABELLED)[name]
        if name == PYTHON:
            versions[name] = platform.python_version()
        else:
            versions[name] = importlib.metadata.version(distribution)
    return versions


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{text}\n", encoding="utf-8")


def _readme(versions: dict[str, str]) -> str:
    rows = []
    for name, version in versions.items():
        _, licence = (LABELLED | UNLABELLED)[name]
        rows.append(f"| {name} | {version} | {licence} |")
    table = "\n".join(rows)
    return (
        "# Demo text of d2v\n\n"
        "Docstrings and help topics of packages that were installed here, written by `d2v prepare demo text`: real "
        "English of a narrow kind.\nLines were joined to paragraphs, copies left out, and the names of the labelled "
        f'packages replaced by "{MASK}".\nIt is the text of the packages and under their licences; their distributions '
        "hold them in full.\n\n"
        f"| package | version | licence |\n| --- | --- | --- |\n{table}\n\n"
        "raw/train.txt, raw/val.txt: all documents, a blank line between two.\nlabelled/train.jsonl, "
        "labelled/val.jsonl: those of the packages with the most, each with the package that it documents.\nThe "
        "documents to validate come from other source files than those to train on.\n"
    )
