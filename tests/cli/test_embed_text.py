"""`d2v embed` on text as a user calls it: folders, lines and tables to features in a file."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embedding import embed
from encoders import save_checkpoint, text_encoder

from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.model.encoder import Encoder

WIDTH, POSITIONS = 16, 24
TEXT = "the quick brown fox jumps over a lazy dog while seven wizards brew cold tea in an old house by the sea"


def text_of(length: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(TEXT.split(), length))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train([text_of(200, seed) for seed in range(3)], vocab_size=300)


@pytest.fixture(scope="module")
def encoder(tokenizer: TextTokenizer) -> Encoder:
    torch.manual_seed(0)
    model = text_encoder(vocab_size=len(tokenizer), width=WIDTH, depth=2, num_heads=2, max_positions=POSITIONS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that outputs differ much
    return model.eval()


def save(encoder: Encoder, path: Path, assets: dict[str, str]) -> Path:
    encoder.assets = assets
    return save_checkpoint(encoder, path)


@pytest.fixture(scope="module")
def checkpoint(encoder: Encoder, tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(encoder, tmp_path_factory.mktemp("model") / "last.ckpt", {"tokenizer.json": tokenizer.to_json()})


def rows(path: Path) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(path).to_pylist()}


def whole(encoder: Encoder, tokenizer: TextTokenizer, text: str, pool: str = "mean") -> np.ndarray:
    """Of a text that fits the positions, in one pass."""
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)[: POSITIONS - 2], tokenizer.eos_id]])
    return encoder.embed(ids, pool=pool)[0].numpy()  # type: ignore[arg-type]


def test_a_folder_has_a_row_a_file(
    checkpoint: Path,
    encoder: Encoder,
    tokenizer: TextTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "two.txt").write_text("a lazy dog\nby the sea\n")
    (folder / "one.txt").write_bytes(b"\xef\xbb\xbfcold tea \xff in an old house")
    (folder / "empty.txt").write_text(" \n")
    (folder / "notes.md").write_text("not read")
    output = tmp_path / "x.parquet"
    assert embed(checkpoint, folder, output) == 0
    out, err = capsys.readouterr()
    assert "skipped empty.txt: it is empty" in err
    assert "1 files are not valid UTF-8" in err
    table = pq.read_table(output)
    assert table.column_names == ["id", "embedding", "num_tokens"]
    assert table["id"].to_pylist() == ["b/two.txt", "one.txt"]
    found = rows(output)
    for name, text in (("b/two.txt", "a lazy dog\nby the sea"), ("one.txt", "cold tea \ufffd in an old house")):
        assert found[name]["num_tokens"] == len(tokenizer.encode(text)) + 2
        np.testing.assert_allclose(found[name]["embedding"], whole(encoder, tokenizer, text), atol=1e-5)
    assert "2 texts, " in out
    assert "(1 skipped): embedding [2, 16] float32 in " in out
    assert "tokens a second" in out
    assert embed(checkpoint, f"{folder}/*/*.txt", output) == 0
    assert list(rows(output)) == ["two.txt"]


def test_lines_of_a_file_and_of_stdin_are_numbered(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"a lazy dog\r\n\n   \nbrew \xe9 tea\nseven wizards"
    (tmp_path / "lines.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert embed(checkpoint, "-", tmp_path / "stdin.parquet") == 0
    assert "1 lines of stdin are not valid UTF-8" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="not valid UTF-8"):
        assert embed(checkpoint, tmp_path / "lines.txt", tmp_path / "file.parquet") == 0
    stdin, file = rows(tmp_path / "stdin.parquet"), rows(tmp_path / "file.parquet")
    assert list(stdin) == ["1", "4", "5"]
    assert stdin == file


def test_tables_are_named_by_their_ids_or_numbers(
    checkpoint: Path, encoder: Encoder, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    texts = ["cold tea", "", 'the "old", quick fox']
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"n": 1, "Sentence": text}) for text in texts))
    (tmp_path / "x.csv").write_text('id,text\nfirst,cold tea\nnothing,\n,"the ""old"", quick fox"\n')
    (tmp_path / "x.tsv").write_text("label\treview\n" + "\n".join(f"1\t{text}" for text in texts) + "\n")
    pq.write_table(pa.table({"id": [7, 8, 9], "text": [texts[0], None, texts[2]]}), tmp_path / "x.parquet")
    output = tmp_path / "out.parquet"
    expected = [whole(encoder, tokenizer, text) for text in (texts[0], texts[2])]
    for name, ids in (
        ("x.jsonl", ["0", "2"]),
        ("x.csv", ["first", "2"]),
        ("x.tsv", ["0", "2"]),
        ("x.parquet", ["7", "9"]),
    ):
        assert embed(checkpoint, tmp_path / name, output) == 0
        found = rows(output)
        assert list(found) == ids
        np.testing.assert_allclose([row["embedding"] for row in found.values()], expected, atol=1e-5)


def windows(encoder: Encoder, tokenizer: TextTokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the tokens of a long text by hand, and the one of the first <s>."""
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    hop = POSITIONS - POSITIONS // 4
    starts = [*range(0, len(ids) - POSITIONS, hop), len(ids) - POSITIONS]
    kept: list[np.ndarray] = []
    for number, start in enumerate(starts):
        piece = [tokenizer.bos_id, *ids[start + 1 : start + POSITIONS]]
        vectors = encoder.embed(torch.tensor([piece]), pool="none")[0].numpy()
        following = starts[number + 1] if number + 1 < len(starts) else None
        stop = len(ids) if following is None else (following + start + POSITIONS) // 2
        kept += list(vectors[len(kept) - start : stop - start])
        assert len(kept) == stop
    return np.array(kept), whole(encoder, tokenizer, text, "cls")


@pytest.mark.parametrize("workers", [0, 2])
def test_long_texts_are_cut_into_windows(
    checkpoint: Path, encoder: Encoder, tokenizer: TextTokenizer, tmp_path: Path, workers: int
) -> None:
    texts = [text_of(length, seed=length) for length in (60, 3, 25)]
    (tmp_path / "x.txt").write_text("\n".join(texts))
    expected = [windows(encoder, tokenizer, text)[0] for text in (texts[0], texts[2])]
    options = ["--num_workers", workers]
    for pool in ("none", "mean", "cls"):
        output = tmp_path / f"{pool}.parquet"
        assert embed(checkpoint, tmp_path / "x.txt", output, "--pool", pool, *options) == 0
    tokens, mean, cls = (rows(tmp_path / f"{pool}.parquet") for pool in ("none", "mean", "cls"))
    assert pq.read_table(tmp_path / "none.parquet").column_names == [
        "id", "embedding", "first_token", "num_tokens"
    ]  # fmt: skip
    for name, vectors in zip(("1", "3"), expected, strict=True):
        assert tokens[name]["num_tokens"] == mean[name]["num_tokens"] == cls[name]["num_tokens"] == len(vectors)
        np.testing.assert_allclose(tokens[name]["embedding"], vectors, atol=1e-5)
        np.testing.assert_allclose(mean[name]["embedding"], vectors.mean(axis=0), atol=1e-5)
    for name, text in zip(("1", "2", "3"), texts, strict=True):
        piece = tokenizer.encode(text)[: POSITIONS - 1]
        ids = [tokenizer.bos_id, *piece, *[tokenizer.eos_id] * (len(piece) < POSITIONS - 1)]
        alone = encoder.embed(torch.tensor([ids]), pool="cls")[0]
        np.testing.assert_allclose(cls[name]["embedding"], alone, atol=1e-5)


def test_a_text_alone_and_among_others_has_the_same_row(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text_of(int(length), seed) for seed, length in enumerate(np.random.default_rng(0).integers(1, 40, 60))]
    (tmp_path / "all.txt").write_text("\n".join(texts))
    batches: list[torch.Size] = []
    embed_batch = Encoder.embed
    monkeypatch.setattr(
        Encoder, "embed", lambda self, x, *args, **kw: (batches.append(x.shape), embed_batch(self, x, *args, **kw))[1]
    )
    assert embed(checkpoint, tmp_path / "all.txt", tmp_path / "all.parquet") == 0
    assert len(batches) < 30
    assert max(count * length for count, length in batches) <= 2_048
    together = rows(tmp_path / "all.parquet")
    assert list(together) == [str(number) for number in range(1, 61)]
    for number in (1, 17, 60):
        (tmp_path / "one.txt").write_text(texts[number - 1])
        assert embed(checkpoint, tmp_path / "one.txt", tmp_path / "one.parquet") == 0
        alone = rows(tmp_path / "one.parquet")["1"]
        np.testing.assert_allclose(alone["embedding"], together[str(number)]["embedding"], atol=1e-5)


def test_without_positions_a_text_may_be_long(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = text_encoder(
        vocab_size=len(tokenizer), width=WIDTH, depth=1, num_heads=2, max_positions=None, alibi=True
    ).eval()
    path = save(model, tmp_path / "last.ckpt", {"tokenizer.json": tokenizer.to_json()})
    text = text_of(100)
    (tmp_path / "x.txt").write_text(text)
    assert embed(path, tmp_path / "x.txt", tmp_path / "x.npz", "--pool", "none") == 0
    found = np.load(tmp_path / "x.npz")
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]])
    assert POSITIONS < found["num_tokens"][0] == ids.shape[1] < 512
    np.testing.assert_allclose(found["embedding"], model.embed(ids, pool="none")[0], atol=1e-5)
    assert set(found.files) == {"id", "d2v", "embedding", "offsets", "num_tokens"}


def test_bad_input(
    checkpoint: Path, encoder: Encoder, tokenizer: TextTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = save(encoder, tmp_path / "without.ckpt", {})
    large = TextTokenizer.train([text_of(500)], vocab_size=400)
    small = text_encoder(vocab_size=len(large) - 1, width=WIDTH, depth=1, num_heads=2)
    too_small = save(small, tmp_path / "small.ckpt", {"tokenizer.json": large.to_json()})
    (tmp_path / "none").mkdir()
    (tmp_path / "x.txt").write_text("cold tea")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.jsonl").write_text("{]")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    (tmp_path / "x.parquet").write_bytes(b"PAR")
    output = tmp_path / "out" / "x.parquet"
    for model, source, message in (
        (without, "x.txt", "--checkpoint: no tokenizer goes with this encoder"),
        (too_small, "x.txt", f"its tokenizer has {len(large)} ids"),
        (checkpoint, "none", "no .txt file in"),
        (checkpoint, "*.doc", "no .txt file matches"),
        (checkpoint, "nowhere.txt", "nowhere.txt does not exist"),
        (checkpoint, "blank.txt", "there is no text in it"),
        (checkpoint, "x.csv", "none of its columns (a, b) is called text, "),
        (checkpoint, "x.jsonl", "no valid JSON"),
        (checkpoint, "empty.jsonl", "not one of 1 texts could be embedded"),
        (checkpoint, "x.pdf", "of no known kind"),
        (checkpoint, "x.parquet", "cannot be read as Parquet"),
    ):
        assert embed(model, tmp_path / source, output) == 2, message
        err = capsys.readouterr().err
        assert message in err
        assert "data.root" not in err
        assert "Traceback" not in err
    assert not output.exists()
