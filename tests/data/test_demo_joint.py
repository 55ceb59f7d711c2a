"""The joint demo: what it tests on is nowhere in training, its tables are right, and it is the same each time."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2v.demo.demo_folder import DemoSummary
from d2v.demo.digits import FIRST_HELD_OUT, prepare_joint
from d2v.demo.sentences import DIGITS, write_counts
from d2v.errors import UserError

SMALL = {
    "vision": {"image_size": 32, "train_crops": 1, "val_crops": 1},
    "speech": {"train_sentences": 1, "val_sentences": 1, "train_digits": 1, "val_digits": 1, "silence": (0.0, 0.03)},
    "text": {"train_documents": 1, "val_documents": 1},
}


def tiny(root: Path) -> DemoSummary:
    return prepare_joint(root, pairs=40, tests=20, sentences=60, others=SMALL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "joint"
    assert tiny(root).created
    return root


def table(root: Path, name: str) -> list[dict[str, str]]:
    with (root / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(("name", "split", "rows"), [("pairs.tsv", "train", 40), ("test.tsv", "val", 20)])
def test_a_row_is_of_one_digit_and_one_split(tree: Path, name: str, split: str, rows: int) -> None:
    found = table(tree, name)
    assert [row["label"] for row in found] == rows // 10 * list(DIGITS)
    for row in found:
        assert row["picture"].startswith(f"digits/{split}/{row['label']}/")
        assert row["speech"].startswith(f"speech/digits/{split}/{row['label']}/")
        assert (tree / row["picture"]).is_file()
        assert (tree / row["speech"]).is_file()
        assert [word.upper() for word in row["text"].split() if word.upper() in DIGITS] == [row["label"]]
    assert len({row["text"] for row in found}) == len({row["picture"] for row in found}) == rows


def test_sentences_voices_and_people_of_the_test_are_nowhere_in_training(tree: Path) -> None:
    pairs, tests = table(tree, "pairs.tsv"), table(tree, "test.tsv")
    after = [{row["text"].partition(f" {row['label'].lower()} ")[2] for row in rows} for rows in (pairs, tests)]
    assert {words.replace("s ", " ", 1) for words in after[0]}.isdisjoint(
        words.replace("s ", " ", 1) for words in after[1]
    )
    voices = [{Path(row["speech"]).name.split("-")[0] for row in rows} for rows in (pairs, tests)]
    assert not voices[0] & voices[1]
    read = set((tree / "sentences/raw/train.txt").read_text().splitlines())
    assert read > {row["text"] for row in pairs}
    assert not read & {row["text"] for row in tests}
    numbers = [[int(file.stem) for file in (tree / "digits" / split).rglob("*.png")] for split in ("train", "val")]
    assert max(numbers[0]) + 1 == min(numbers[1]) == FIRST_HELD_OUT
    assert sum(map(len, numbers)) == 1_797


def test_a_form_begins_where_the_held_out_pictures_do() -> None:
    from sklearn.datasets import load_digits

    labels = load_digits().target
    assert labels[FIRST_HELD_OUT : FIRST_HELD_OUT + 30].tolist() == 3 * list(range(10))
    assert labels[FIRST_HELD_OUT - 10 : FIRST_HELD_OUT].tolist() != list(range(10))


def test_pictures_are_ink_on_paper(tree: Path) -> None:
    pixels = np.asarray(Image.open(next((tree / "digits/train/EIGHT").glob("*.png"))))
    assert pixels.shape == (32, 32)
    assert pixels[:, 0].mean() > 200 > 60 > pixels.min()


def test_labelled_sentences_have_the_digit_as_label(tree: Path) -> None:
    rows = [json.loads(line) for line in (tree / "sentences/labelled/val.jsonl").read_text().splitlines()]
    assert Counter(row["label"] for row in rows) == dict.fromkeys(DIGITS, 2)
    assert all(row["label"].lower() in row["text"].split() for row in rows)


def test_it_is_the_same_each_time_and_made_anew_where_a_table_is_gone(tree: Path, tmp_path: Path) -> None:
    assert not tiny(tree).created
    assert "CC BY 4.0" in (tree / "README.txt").read_text()
    before = {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*.*") if path.is_file()}
    (tree / "test.tsv").unlink()
    assert tiny(tree).created
    assert before == {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*.*") if path.is_file()}


def test_sentences_count_with_the_right_grammar() -> None:
    sentences = write_counts("train", 1_000, seed=0)
    assert len(set(sentences)) == 1_000
    assert sentences == write_counts("train", 1_000, seed=0) != write_counts("train", 1_000, seed=1)
    text = "\n".join(sentences)
    assert "_" not in text
    assert "there is one " in text
    assert "one boat " in text
    assert "two boats " in text
    with pytest.raises(UserError, match="2,250 sentences that count things"):
        write_counts("train", 3_000, seed=0)


def test_more_pairs_than_sentences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pairs at most sentences"):
        prepare_joint(tmp_path, pairs=20, sentences=10)
