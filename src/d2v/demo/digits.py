"""The joint demo: digits as pictures, as speech and as text, beside the three other demos.

The pictures are the handwritten digits that scikit-learn ships: the test set of "Optical Recognition of Handwritten
Digits" (E. Alpaydin and C. Kaynak, 1998), by 13 people who are not among those of its training set. Their order shows
who wrote what: 14 filled forms follow one another, and each begins with 0 to 9, three times.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2v.demo.demo_folder import DemoFolder, DemoSummary
from d2v.demo.packages import prepare_texts
from d2v.demo.photos import prepare_photos
from d2v.demo.sentences import DIGITS, write_counts
from d2v.demo.voices import prepare_voices
from d2v.errors import UserError

FIRST_HELD_OUT = 1415  # the last three forms
_SIDE = 32  # of a saved picture in pixels; scikit-learn's have 8
_SILENCE = (0.0, 0.03)  # seconds at either end of what is said, which is cut close, as FSDD is
_TABLES = {"train": "pairs.tsv", "val": "test.tsv"}


def prepare_joint(
    root: str | Path,
    pairs: int = 1_200,
    tests: int = 100,
    sentences: int = 2_000,
    seed: int = 0,
    others: dict[str, dict[str, Any]] | None = None,
) -> DemoSummary:
    """Write the three demos, handwritten digits, sentences that count things, and tables of what belongs together.

    ``vision/``, ``speech/`` (which has spoken digits) and ``text/`` are the other demos. ``digits/train/SEVEN/``, ...
    and ``digits/val/SEVEN/`` hold pictures, ``sentences/raw/train.txt`` what to pretrain on, and
    ``sentences/labelled/`` the same sentences with their digit. ``pairs.tsv`` and ``test.tsv`` have a picture, a spoken
    digit, a sentence and the digit in each row: those to test are by people and in voices that are nowhere in training,
    and count things in places where no sentence to train on has them. The same seed gives the same bytes; a finished
    tree of the same parameters is left alone.

    Args:
        root: folder to fill; it must be new, empty or of an earlier call.
        pairs: rows of ``pairs.tsv``, in which the digits take turns.
        tests: rows of ``test.tsv``, likewise.
        sentences: those to pretrain on.
        seed: decides the sentences, and what belongs together.
        others: arguments of :func:`~d2v.demo.photos.prepare_photos` ("vision"), ``prepare_voices`` ("speech") and
            ``prepare_texts`` ("text") that are not the usual ones.

    Raises:
        UserError: a package is missing, a count is too large, or the folder holds something else.
    """
    counts = {"pairs": pairs, "tests": tests, "sentences": sentences}
    if min(counts.values()) < 1 or pairs > sentences:
        raise UserError(f"pairs {pairs}, tests {tests}, sentences {sentences}: above 0, and pairs at most sentences.")
    others = {"speech": {"silence": _SILENCE}, **(others or {})}
    wanted = {**counts, "seed": seed, "others": others}
    folder = DemoFolder(root, "joint", wanted, ("digits", "sentences", *_TABLES.values()))
    found = folder.finished()
    created = found is None
    if found is None:
        folder.clear()
    parts = {
        "vision": prepare_photos(folder.root / "vision", **others.get("vision", {})),
        "speech": prepare_voices(folder.root / "speech", **others.get("speech", {})),
        "text": prepare_texts(folder.root / "text", **others.get("text", {})),
    }
    if found is None:
        pictures = _write_pictures(folder.root)
        texts = {"train": write_counts("train", sentences, seed), "val": write_counts("val", tests, seed)}
        for split, rows in (("train", pairs), ("val", tests)):
            _write_sentences(folder.root / "sentences", split, texts[split])
            columns = [pictures[split], _spoken(folder.root, split), _by_digit(texts[split])]
            _write_table(folder.root / _TABLES[split], columns, rows, np.random.default_rng([seed, 3, rows]))
        (folder.root / "README.txt").write_text(_readme(counts))
        found = folder.finish({**counts, "pictures": sum(map(len, pictures["train"].values()))})
    beside = "; ".join(part.text for part in parts.values())
    text = (
        f"{found['pictures']:,} handwritten digits, {sentences:,} sentences that count things, {pairs:,} rows of a "
        f"picture, speech and text to train on and {tests:,} to test; beside them {beside}"
    )
    return DemoSummary(folder.root, created or any(part.created for part in parts.values()), found, text)


def _write_pictures(root: Path) -> dict[str, dict[str, list[str]]]:
    """Write all handwritten digits; their paths below ``root`` by split and digit."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    written: dict[str, dict[str, list[str]]] = {}
    for split in _TABLES:
        written[split] = {digit: [] for digit in DIGITS}
    for number, (ink, label) in enumerate(zip(shipped.images, shipped.target, strict=True)):
        split = "train" if number < FIRST_HELD_OUT else "val"
        digit = DIGITS[label]
        paper = Image.fromarray(255 - np.rint(ink * (255 / 16)).astype(np.uint8))
        path = Path("digits", split, digit, f"{number:04d}.png")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        paper.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(root / path)
        written[split][digit].append(path.as_posix())
    return written


def _spoken(root: Path, split: str) -> dict[str, list[str]]:
    """Paths of the spoken digits of a split below ``root``, by digit."""
    found: dict[str, list[str]] = {}
    for digit in DIGITS:
        files = sorted((root / "speech" / "digits" / split / digit).glob("*.flac"))
        found[digit] = [file.relative_to(root).as_posix() for file in files]
    return found


def _by_digit(texts: list[str]) -> dict[str, list[str]]:
    """Sentences in which the digits take turns, by digit."""
    return {digit: texts[number :: len(DIGITS)] for number, digit in enumerate(DIGITS)}


def _write_sentences(folder: Path, split: str, texts: list[str]) -> None:
    rows = []
    for number, text in enumerate(texts):
        rows.append(json.dumps({"text": text, "label": DIGITS[number % len(DIGITS)]}) + "\n")
    for kind, name, lines in (
        ("raw", f"{split}.txt", [f"{text}\n" for text in texts]),
        ("labelled", f"{split}.jsonl", rows),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / name).write_text("".join(lines))


def _write_table(path: Path, columns: list[dict[str, list[str]]], rows: int, generator: np.random.Generator) -> None:
    """A picture, a spoken digit and a sentence of one digit a row; a column that is too short begins anew."""
    lines = ["picture\tspeech\ttext\tlabel\n"]
    shuffled = []
    for column in columns:
        shuffled.append({digit: generator.permutation(items) for digit, items in column.items()})
    for row in range(rows):
        turn, label = divmod(row, len(DIGITS))
        digit = DIGITS[label]
        cells = [str(column[digit][turn % len(column[digit])]) for column in shuffled]
        lines.append("\t".join([*cells, digit]) + "\n")
    path.write_text("".join(lines))


def _readme(counts: dict[str, int]) -> str:
    return (
        "DIGITS that are written by hand, spoken and named in sentences, by `d2v prepare demo joint`, to try out one\n"
        "model for pictures, speech and text.\n\n"
        'digits/      1,797 handwritten digits of 8x8, enlarged: the test set of "Optical Recognition of Handwritten\n'
        '             Digits" (E. Alpaydin, C. Kaynak, 1998; https://archive.ics.uci.edu/dataset/80, CC BY 4.0), as\n'
        "             scikit-learn ships it. val/ has the last three of its 14 filled forms, probably by people who\n"
        "             wrote none of the others: the order of the digits shows where a form begins\n"
        "sentences/   sentences that count things, from zero to nine; those of val/ and test.tsv have them in places\n"
        "             where those to train on never do\n"
        f"pairs.tsv    {counts['pairs']:,} rows of a picture, a spoken digit, a sentence and the digit, to train on\n"
        f"test.tsv     {counts['tests']:,} rows of people, voices and sentences that are not in pairs.tsv\n"
        "vision/, speech/, text/   the other demos, each with a README of its own; spoken digits are in speech/digits\n"
    )
