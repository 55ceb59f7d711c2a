"""Labelled text from any file: the same rows whatever holds them, what is cut, held out and left out, and bad input."""

import csv
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pytest
import torch
from encoders import text_encoder, vision_encoder
from hypothesis import given
from hypothesis import strategies as st

from d2v.data.file_index import PackedStrings
from d2v.errors import UserError
from d2v.modalities.text.labelled.data import LabelledTextDataModule
from d2v.modalities.text.labelled.examples import Examples
from d2v.modalities.text.labelled.sequences import tokenise
from d2v.modalities.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.train(["it was a good film, and not a bad one"] * 3, 270)
TRAIN = [
    ('"good" it was', "pos"),
    ("a bad film", "neg"),
    ("nöt \u2028 bad\x85 at all", "pos"),
    ("a film, sadly", "neg"),
]
DEV = [("was it good", "pos"), ("it was not", "neg")]
Rows = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    TOKENIZER.save(path)
    return str(path)


def write_tsv(folder: Path, name: str, rows: Rows, columns: tuple[str, str] | None = ("text", "label")) -> Path:
    lines = ["\t".join(row) for row in ([columns] if columns else []) + rows]
    path = folder / f"{name}.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


def write_csv(folder: Path, name: str, rows: Rows) -> None:
    with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [("id", "label", "text"), *((i, label, text) for i, (text, label) in enumerate(rows))]
        )


def write_jsonl(folder: Path, name: str, rows: Rows) -> None:
    lines = [json.dumps({"label": label, "text": text}) for text, label in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def write_json(folder: Path, name: str, rows: Rows) -> None:
    (folder / f"{name}.json").write_text(json.dumps([{"text": t, "label": k} for t, k in rows], indent=1))


def write_gz(folder: Path, name: str, rows: Rows) -> None:
    path = write_tsv(folder, name, rows)
    (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def write_zst(folder: Path, name: str, rows: Rows) -> None:
    path = write_tsv(folder, name, rows)
    with pyarrow.CompressedOutputStream(str(folder / f"{name}.tsv.zst"), "zstd") as file:
        file.write(path.read_bytes())
    path.unlink()


def write_parquet(folder: Path, name: str, rows: Rows) -> None:
    (folder / "data").mkdir(exist_ok=True)
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    frame[:2].to_parquet(folder / "data" / f"{name}-00000-of-00002.parquet")
    frame[2:].to_parquet(folder / "data" / f"{name}-00001-of-00002.parquet")


def of_hugging_face(rows: Rows) -> datasets.Dataset:
    """With numbers for labels, whose names are beside them."""
    names = ["neg", "pos"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict(
        {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}, features=features
    )


def write_hugging_face_parquet(folder: Path, name: str, rows: Rows) -> None:
    of_hugging_face(rows).to_parquet(str(folder / f"{name}.parquet"))


def write_saved(folder: Path, name: str, rows: Rows) -> None:
    of_hugging_face(rows).save_to_disk(str(folder / name))


def write_folders(folder: Path, name: str, rows: Rows) -> None:
    for number, (text, label) in enumerate(rows):
        (folder / name / label).mkdir(parents=True, exist_ok=True)
        (folder / name / label / f"{number}_7.txt").write_text(text, encoding="utf-8", newline="")
    (folder / name / "unsup").mkdir()
    (folder / name / "unsup" / "0_0.txt").write_text("no label")


def make(root: Path | str, tokenizer: str | None, **values: Any) -> LabelledTextDataModule:
    return LabelledTextDataModule(str(root), **{"num_workers": 0, "batch_size": 2, "tokenizer": tokenizer, **values})


def contents(data: LabelledTextDataModule, split: Any) -> list[tuple[str, str]]:
    """Texts and labels, decoded from tokens and numbers."""
    dataset = data.eval_dataset(split)
    assert dataset is not None
    found = []
    for index in range(len(dataset)):
        sample = dataset[(0, index)]
        text = TOKENIZER.decode(sample.inputs).removeprefix("<s>").removesuffix("</s>")
        found.append((text, data.class_names[int(sample.label)]))  # type: ignore[arg-type]
    return found


WRITERS: list[Callable[[Path, str, Rows], Any]] = [
    write_tsv, write_csv, write_jsonl, write_json, write_gz, write_zst, write_parquet, write_hugging_face_parquet,
    write_saved, write_folders,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_same_rows_from_any_file(tmp_path: Path, tokenizer: str, write: Any) -> None:
    root = tmp_path / "texts"
    root.mkdir()
    write(root, "train", TRAIN)
    write(root, "validation" if write is write_saved else "dev", DEV)
    data = make(root, tokenizer)
    data.setup("fit")
    assert data.class_names == ("neg", "pos")
    assert sorted(contents(data, "train")) == sorted(TRAIN)
    assert sorted(contents(data, "val")) == sorted(DEV)
    if write is not write_folders:
        assert contents(data, "train") == TRAIN, "in the order of the file"


@pytest.mark.filterwarnings("ignore:data. 1 places in")
def test_a_cell_of_csv_may_have_lines_and_text_may_be_no_utf8(tmp_path: Path, tokenizer: str) -> None:
    write_csv(tmp_path, "train", [("two\nlines", "a"), ("one", "b")])
    data = make(tmp_path, tokenizer)
    assert contents(data, "train") == [("two\nlines", "a"), ("one", "b")]
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.tsv").write_bytes(b"label\ttext\r\na\tgood \xff film\r\nb\tbad\r\n")
    assert contents(make(tmp_path, tokenizer), "train") == [("good \ufffd film", "a"), ("bad", "b")]


def test_columns_by_name_by_number_and_pairs(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "train.tsv").write_text("1\tgood\tfilm\n0\tbad\tone\n")
    data = make(tmp_path / "train.tsv", tokenizer, text="2,3", label="1")
    assert contents(data, "train") == [("good</s></s>film", "1"), ("bad</s></s>one", "0")]
    assert data.eval_dataset("val") is None
    (tmp_path / "train.tsv").write_text("premise\thypothesis\ttext\tverdict\ngood\tfilm\tx\tyes\nbad\tone\tx\tno\n")
    data = make(tmp_path, tokenizer, label="verdict")
    assert contents(data, "train") == [("good</s></s>film", "yes"), ("bad</s></s>one", "no")]
    assert contents(make(tmp_path, tokenizer, label="verdict", text="text"), "train") == [("x", "yes"), ("x", "no")]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_of_the_very_name_is_the_whole_split(tmp_path: Path, tokenizer: str, ending: str) -> None:
    write = write_gz if ending else write_tsv
    for name, rows in (("train", TRAIN), ("train_more", TRAIN), ("dev", DEV)):
        write(tmp_path, name, rows)
    (tmp_path / "dev_ids.tsv").write_text("1219040\t1219232\n")
    data = make(tmp_path, tokenizer)
    assert (contents(data, "train"), contents(data, "val")) == (TRAIN, DEV)


def test_numbers_are_in_their_order(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", [("a", "10"), ("b", "9"), ("c", "1")])
    assert make(tmp_path, tokenizer).class_names == ("1", "9", "10")


def test_a_batch_is_padded(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", [("it", "a"), ("it was a good film", "b")])
    data = make(tmp_path, tokenizer)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.dtype == torch.int64
    assert batch.padding_mask is not None
    assert ((batch.inputs == TOKENIZER.pad_id) == batch.padding_mask).all()
    assert (batch.inputs[:, 0] == TOKENIZER.bos_id).all()
    assert sorted(batch.labels.tolist()) == [0, 1]
    alike = data.collate([data.train_dataset()[(0, 1)]] * 2)
    assert alike.padding_mask is None
    assert data.count_units(batch) == 2


texts = st.text("ab ü,", max_size=30)


@given(texts, texts, st.integers(6, 40), st.booleans())
def test_the_longer_text_of_a_row_is_cut_token_by_token(a: str, b: str, max_length: int, pair: bool) -> None:
    columns = (PackedStrings([a]), PackedStrings([b]))[: 1 + pair]
    found = tokenise(Examples(columns, None, PackedStrings(["x:1"])), TOKENIZER, max_length)
    first, second = TOKENIZER.encode(a), TOKENIZER.encode(b) if pair else []
    whole = len(first) + len(second)
    while len(first) + len(second) > max_length - 2 * (1 + pair):
        (first if len(first) > len(second) else second).pop()  # the longer one; of two equal ones the second
    bos, eos = TOKENIZER.bos_id, TOKENIZER.eos_id
    assert found[0].tolist() == [bos, *first, eos, *([eos, *second, eos] if pair else [])]
    assert found.num_cut == (len(first) + len(second) < whole)


def test_long_texts_are_cut_and_counted(tmp_path: Path, tokenizer: str, caplog: pytest.LogCaptureFixture) -> None:
    write_tsv(tmp_path, "train", [("film " * 30, "a"), ("it", "b")])
    with caplog.at_level(logging.INFO):
        dataset = make(tmp_path, tokenizer, max_length=9).train_dataset()
    assert [len(dataset[(0, i)].inputs) for i in range(2)] == [9, 3]
    assert "1 of 2 texts to train are longer than data.max_length 9 tokens and are cut" in caplog.text


def test_many_texts_are_tokenised_once(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2v.modalities.text.labelled.sequences._WORTH_KEEPING", 1)
    write_tsv(tmp_path, "train", TRAIN)
    first = contents(make(tmp_path, tokenizer), "train")
    monkeypatch.setattr(TextTokenizer, "encode_batch", lambda *_: pytest.fail("they are in the cache"))
    assert contents(make(tmp_path, tokenizer), "train") == first == TRAIN
    with pytest.raises(pytest.fail.Exception):
        make(tmp_path, tokenizer, max_length=9).train_dataset()


def test_a_subset_is_balanced_and_fixed(tmp_path: Path, tokenizer: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f"good {i}", "pos") for i in range(30)] + [(f"bad {i}", "neg") for i in range(8)] + [("so so", "mid")]
    write_tsv(tmp_path, "train", rows)
    chosen = []
    for seed in (0, 7):
        data = make(tmp_path, tokenizer, max_samples=15, seed=seed)
        with caplog.at_level(logging.INFO):
            data.setup("fit")
        chosen.append(contents(data, "train"))
    assert chosen[0] == chosen[1]
    labels = [label for _, label in chosen[0]]
    assert {label: labels.count(label) for label in labels} == {"pos": 7, "neg": 7, "mid": 1}
    assert "15 of 39 training texts, drawn by a fixed seed for data.max_samples: 1 of mid, 7 of neg, 7 of pos" in (
        caplog.text
    )


def test_a_share_of_the_labels(tmp_path: Path, tokenizer: str, caplog: pytest.LogCaptureFixture) -> None:
    """The subset of as many texts; one of each class at least."""
    rows = [(f"text {i}", "neg" if i % 4 else "pos") for i in range(40)]
    write_tsv(tmp_path, "train", rows)
    with caplog.at_level(logging.INFO):
        chosen = contents(make(tmp_path, tokenizer, label_fraction=0.1), "train")
    assert chosen == contents(make(tmp_path, tokenizer, max_samples=4, seed=7), "train")
    assert "4 of 40 training texts, drawn by a fixed seed for data.label_fraction: 2 of neg, 2 of pos" in caplog.text
    assert {label for _, label in contents(make(tmp_path, tokenizer, label_fraction=0.01), "train")} == {"neg", "pos"}
    with pytest.raises(UserError, match=r"data\.max_samples is 4 and data\.label_fraction 0\.1"):
        make(tmp_path, tokenizer, max_samples=4, label_fraction=0.1)
    with pytest.raises(UserError, match=r"data\.label_fraction is 0\.0"):
        make(tmp_path, tokenizer, label_fraction=0.0)


def test_a_share_is_held_out(tmp_path: Path, tokenizer: str) -> None:
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
    path = write_tsv(tmp_path, "reviews", rows)
    splits = []
    for seed in (0, 7):
        data = make(path, tokenizer, val_fraction=0.2, seed=seed)
        splits.append((contents(data, "train"), contents(data, "val")))
    assert splits[0] == splits[1]
    train, val = splits[0]
    assert (len(train), len(val)) == (16, 4)
    assert sorted(train + val) == sorted(rows)


def test_the_test_split_validates_only_if_it_has_labels(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", TRAIN)
    (tmp_path / "test.tsv").write_text("index\ttext\n0\tgood\n")
    assert make(tmp_path, tokenizer).eval_dataset("val") is None
    write_tsv(tmp_path, "test", DEV)
    assert contents(make(tmp_path, tokenizer), "val") == DEV


def test_what_is_predicted_on_needs_no_labels(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", TRAIN)
    write_tsv(tmp_path, "dev", DEV)
    (tmp_path / "test.tsv").write_text("text\ngood\n \nbad\n")
    data = make(tmp_path, tokenizer, predict_on="test")
    dataset = data.predict_dataset()
    assert [sample.label for sample in (dataset[(0, i)] for i in range(3))] == [None] * 3
    assert [dataset.skipped.name(i) for i in range(3)] == ["test.tsv:2", "test.tsv:3", "test.tsv:4"]
    assert data.collate([dataset[(0, 0)]]).labels is None
    assert len(make(tmp_path, tokenizer).predict_dataset()) == len(DEV)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lines.txt").write_text("good\n\nbad\n")
    assert len(make(tmp_path / "other", tokenizer, predict_on="all").predict_dataset()) == 2


def test_scores(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", [("good", "4.5"), ("bad", "0")], ("text", "score"))
    data = make(tmp_path, tokenizer, regression=True)
    data.setup("fit")
    assert data.class_names == ()
    batch = data.collate([data.train_dataset()[(0, i)] for i in range(2)])
    assert batch.labels is not None
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [4.5, 0]
    write_tsv(tmp_path, "train", [("good", "4.5"), *[("bad", "none")] * 12], ("text", "score"))
    with pytest.raises(UserError, match=r"train\.tsv:3 has the label 'none', which is no number"):
        make(tmp_path, tokenizer, regression=True).setup("fit")


def test_the_tokenizer_is_the_encoders(tmp_path: Path, tokenizer: str) -> None:
    write_tsv(tmp_path, "train", TRAIN)
    write_tsv(tmp_path, "dev", DEV)
    encoder = text_encoder(vocab_size=len(TOKENIZER), width=8, depth=1, num_heads=1, max_positions=16)
    data = make(tmp_path, None, max_length=16)
    with pytest.raises(UserError, match=r"data\.tokenizer: the encoder brings no tokenizer"):
        data.adapt_to(encoder)
    encoder.assets["tokenizer.json"] = TOKENIZER.to_json()
    data.adapt_to(encoder)
    assert data.tokenizer.fingerprint == TOKENIZER.fingerprint
    before = data.train_dataset()[(0, 0)].inputs
    train, val = data.probe_dataloaders()
    assert (len(train.dataset), len(val.dataset)) == (4, 2)  # type: ignore[arg-type]

    other = TextTokenizer.train(["quite another corpus, with other pairs"] * 3, 262)
    encoder.assets["tokenizer.json"] = other.to_json()
    data.adapt_to(encoder)
    assert (
        data.train_dataset()[(0, 0)].inputs.tolist()
        == other.sequence(other.encode(TRAIN[0][0]), max_length=16)
        != before.tolist()
    )

    own = make(tmp_path, tokenizer, max_length=16)
    own.adapt_to(encoder)
    assert encoder.assets["tokenizer.json"] == TOKENIZER.to_json(), "a fine-tuned checkpoint keeps it"
    with pytest.raises(UserError, match=r"data\.max_length is 17, and the encoder has 16 positions; set it to 16"):
        make(tmp_path, tokenizer, max_length=17).adapt_to(encoder)
    with pytest.raises(UserError, match=r"data\.tokenizer: it has \d+ ids, and the encoder embeds 50"):
        own.adapt_to(text_encoder(vocab_size=50, width=8, depth=1, num_heads=1, max_positions=16))
    with pytest.raises(UserError, match="a VisionFrontEnd does not read it"):
        own.adapt_to(vision_encoder(image_size=16, patch_size=8, width=8, depth=1, num_heads=1))


def test_some_rows_may_be_unusable(tmp_path: Path, tokenizer: str, recwarn: pytest.WarningsRecorder) -> None:
    write_tsv(tmp_path, "train", [*TRAIN, ("", "pos"), ("no label", "")])
    data = make(tmp_path, tokenizer)
    data.setup("fit")
    assert contents(data, "train") == TRAIN
    assert data.skipped == 2
    assert any("train.tsv:6 has no text; train.tsv:7 has no label" in str(warning.message) for warning in recwarn)
    write_tsv(tmp_path, "train", [*TRAIN, *[("", "pos")] * 10])
    with pytest.raises(UserError, match=r"10 of 14 rows cannot be used.*train\.tsv:6 has no text"):
        make(tmp_path, tokenizer).setup("fit")


def test_bad_input_is_named(tmp_path: Path, tokenizer: str) -> None:
    def message(pattern: str, root: Path = tmp_path, **values: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            make(root, tokenizer, **values).setup("fit")

    message(r"data\.root .*: no labelled text in it; expected files such as train\.tsv")
    message(r"data\.root .*nowhere: no such file or folder", tmp_path / "nowhere")
    write_tsv(tmp_path, "train", TRAIN, ("body", "label"))
    write_tsv(tmp_path, "dev", [*DEV, ("so so", "mid")])
    message(r"dev\.tsv:4 \(of the validation split\) has the label 'mid', which no training text has; .* neg, pos")
    message(r"data\.text: .*train\.tsv has no column sentence; its columns are body, label", text="sentence")
    message(r"data\.label: .*train\.tsv has no column stars", label="stars")
    message(r"data\.val_split is eval: data\.root .* has no such split; it has .*dev\.tsv", val_split="eval")
    message(r"data\.val_split is dev and data\.val_fraction 0\.1", val_split="dev", val_fraction=0.1)
    message(r"data\.text is 'a,b,c'", text="a,b,c")
    message(r"data\.text 1 and data\.label label", text="1", label="label")
    message(r"data\.max_samples is 1", max_samples=1)
    message(r"data\.max_length is 4", max_length=4)
    for name, content, pattern in (
        ("broken.jsonl", '{"text": "a", "label": 1}\nnot json\n', r"broken\.jsonl, line 2: no valid JSON"),
        ("list.jsonl", '{"text": "a", "label": 1}\n[1]\n', r"list\.jsonl, line 2: expected JSON objects"),
        ("empty.tsv", "", r"empty\.tsv: is empty"),
        ("header.tsv", "text\tlabel\n", r"header\.tsv: no usable row: it has no rows at all"),
        ("bad.parquet", "no parquet", r"bad\.parquet: cannot be read as Parquet"),
        ("bad.tsv.gz", "no gzip", r"bad\.tsv\.gz: is damaged"),
        ("a.docx", "", r"a\.docx: of no known kind"),
    ):
        (tmp_path / name).write_text(content)
        message(pattern, tmp_path / name)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    message(r"saved: no data set that `datasets` has saved", tmp_path / "saved")


def test_a_stray_tab_makes_no_class(tmp_path: Path) -> None:
    rows = ["text\tlabel", *["კარგი\tდიახ", "ცუდი\tარა"] * 10, "ძალიან\tკარგი\tდიახ", "კარგი\tდიახ\t"]
    (tmp_path / "train.tsv").write_text("\n".join(rows), encoding="utf-16")
    data = LabelledTextDataModule(str(tmp_path), max_skipped_fraction=0.1)
    assert data.class_names == ("არა", "დიახ")
    assert (len(data.splits["train"]), data.skipped) == (21, 1)


def test_many_fractions_are_scores(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"a{i},{i / 7:.3f}\n" for i in range(60)))
    with pytest.raises(UserError, match=r"different numbers .*--data\.regression true --model\.task regression"):
        _ = LabelledTextDataModule(str(tmp_path)).splits
    assert len(LabelledTextDataModule(str(tmp_path), regression=True).splits["train"]) == 60
