"""The text demo: real English of installed packages, the same each time, whose label stands nowhere in it."""

import json
from pathlib import Path

import pytest

from d2v.cli import main
from d2v.demo import packages as demo
from d2v.demo.demo_folder import DemoSummary
from d2v.demo.docstrings import LONGEST, SHORTEST, Documents, clean, find_docstrings, is_prose, split
from d2v.demo.packages import mask_names, prepare_texts
from d2v.errors import UserError
from d2v.modalities.text.labelled.data import LabelledTextDataModule

PROSE = (
    "Return the largest of all values that stand in the window. It is computed from the left to the right, so that a "
    "value which is as large as another one is found first, and the rest of them are left as they were before."
)


def tiny(root: Path, train_documents: int = 4) -> DemoSummary:
    return prepare_texts(root, train_documents=train_documents, val_documents=2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoSummary]:
    root = tmp_path_factory.mktemp("demo") / "text"
    return root, tiny(root)


def labelled(root: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / "labelled" / f"{split}.jsonl").read_text().splitlines()]


def test_documents_are_prose_and_the_label_is_masked(tree: tuple[Path, DemoSummary]) -> None:
    root, summary = tree
    assert summary.created
    assert 8 <= len(summary.found["labels"]) <= 12
    raw = {split: (root / "raw" / f"{split}.txt").read_text().rstrip("\n").split("\n\n") for split in ("train", "val")}
    assert {split: len(texts) for split, texts in raw.items()} == summary.found["documents"]
    assert sum(len(text) for texts in raw.values() for text in texts) == summary.found["characters"]
    assert not set(raw["train"]) & set(raw["val"])
    for split_name, texts in raw.items():
        rows = labelled(root, split_name)
        assert {row["text"] for row in rows} <= set(texts)
        assert {row["label"] for row in rows} == set(summary.found["labels"])
        for text in texts:
            assert SHORTEST * 0.8 <= len(text) <= LONGEST * 1.2  # masks are longer or shorter than names
            assert text.isascii()
            assert not any(name in text.lower() for name in demo.LABELLED)
    assert sum(summary.found["labels"].values()) == sum(len(labelled(root, name)) for name in raw)
    assert "PSF-2.0" in (root / "README.md").read_text()


def test_it_loads(tree: tuple[Path, DemoSummary]) -> None:
    root, summary = tree
    data = LabelledTextDataModule(str(root / "labelled"), num_workers=0)
    assert sorted(data.class_names) == sorted(summary.found["labels"])
    assert {name: len(split) for name, split in data.splits.items()} == {
        name: len(labelled(root, name)) for name in ("train", "val")
    }


def test_it_is_the_same_each_time_and_left_alone_when_finished(tree: tuple[Path, DemoSummary], tmp_path: Path) -> None:
    root, summary = tree
    again = tiny(root)
    assert not again.created
    assert again.found == summary.found
    assert tiny(tmp_path).created
    for name in ("raw/train.txt", "raw/val.txt", "labelled/train.jsonl", "labelled/val.jsonl", "README.md"):
        assert (root / name).read_bytes() == (tmp_path / name).read_bytes()
    (tmp_path / "raw" / "val.txt").unlink()
    assert tiny(tmp_path).created
    assert tiny(tmp_path, train_documents=3).created
    assert len(labelled(tmp_path, "train")) <= 3 * len(demo.LABELLED)


def test_bad_folder_or_too_few_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="val_documents 0"):
        prepare_texts(tmp_path / "new", val_documents=0)
    monkeypatch.setattr(demo, "_packages", lambda: ["networkx"])
    assert main(["prepare", "demo", "text", "--output", str(tmp_path / "new")]) == 2
    assert "only 1 of 10 packages are installed with documented source: networkx" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no demo data of text"):
        tiny(tmp_path)


def test_docstrings_are_read_without_importing(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        f'"""Module. {PROSE}"""\nraise SystemExit\n'
        f'class A:\n    """Class. {PROSE}"""\n    async def f(self):\n        "Method."\n'
        f'    if True:\n        def g(self):\n            "In a branch."\n'
        f'add_docstr(abs, r"""C function. {PROSE}""".format(**args))\n'
        f'_shared_docs["x"] = """Shared. {PROSE}"""\ncode = """{PROSE}"""\n'
    )
    found = [text.partition(".")[0] for text in find_docstrings(path)]
    assert sorted(found) == ["C function", "Class", "In a branch", "Method", "Module", "Shared"]
    for content in (b"def broken(:\n" * 40, b"\xff\xfe" * 300, b"\0" * 300):
        path.write_bytes(content)
        assert list(find_docstrings(path)) == []


def test_lines_become_paragraphs() -> None:
    text = """Make a thing,
    as large as it can be.

    .. versionadded:: 1.0

    Parameters
    ----------
    x : int
        How large, and
        how wide.

    - an item that
      goes on
    - another

    >>> make(1)
    a  b
    1  2
    """
    assert clean(text).split("\n") == [
        "Make a thing, as large as it can be.",
        "Parameters",
        "x : int",
        "How large, and how wide.",
        "- an item that goes on",
        "- another",
        ">>> make(1)",
        "a  b",
        "1  2",
    ]


def test_only_english_of_a_sensible_length() -> None:
    assert is_prose(PROSE)
    assert not is_prose(f"{PROSE} Licensed under the Apache License.")
    assert not is_prose(f"{PROSE} caf\u00e9")
    assert not is_prose("x1 = f(y2) + g(z3)\n" * 20)
    assert not is_prose("alpha beta gamma delta " * 20)
    parts = list(split("\n".join([PROSE] * 40)))
    assert len(parts) == 3
    assert all(SHORTEST <= len(part) <= LONGEST for part in parts)
    assert list(split("short")) == []


def test_copies_are_dropped_in_an_order_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "documented_here"
    (package / "tests").mkdir(parents=True)
    (package / "a.py").write_text(f'"""{PROSE}"""')
    (package / "b.py").write_text(f'"""{PROSE} But this one says a little more."""')
    (package / "tests" / "c.py").write_text('"""In tests. ' + PROSE.replace("the", "every") + '"""')
    monkeypatch.syspath_prepend(tmp_path)
    found = list(Documents(most_of_a_file=5).of("documented_here"))
    assert len(found) == len(found[0]) == 1
    assert found == list(Documents(most_of_a_file=5).of("documented_here"))
    assert list(Documents(most_of_a_file=5).of("not_installed_at_all")) == []


def test_names_are_masked_as_parts_of_others_too() -> None:
    text = "PyTorch's torch.Tensor, np.array, TorchScript, scikit-learn; inputs, npm and a torched_one"
    assert (
        mask_names(text) == "package's package.Tensor, package.array, package, package; inputs, npm and a package_one"
    )
