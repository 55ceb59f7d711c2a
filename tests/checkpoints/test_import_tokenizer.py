"""`d2v import` of text with its tokenizer, which then goes wherever the encoder goes."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from text_checkpoints import v1_text, v2_text

import d2v
from d2v.checkpoints.folder import read_config, read_weights, write_folder
from d2v.commands import import_
from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer

TEXT = "A few words, and a few more words: größer, 字."


def write_gpt2_pair(folder: Path) -> None:
    """encoder.json and vocab.bpe of 256 bytes and two merges, and dict.txt that puts them into another order."""
    folder.mkdir(exist_ok=True)
    types = sorted(json.loads(TextTokenizer.train([""], 256).to_json())["model"]["vocab"].items(), key=lambda x: x[1])
    names = [name for name, _ in types if name not in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] + ["wo", "wor"]
    (folder / "encoder.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nw o\nwo r\n")
    order = [257, *range(256), 256]
    (folder / "dict.txt").write_text("".join(f"{number} {1000 - place}\n" for place, number in enumerate(order)))


VOCAB = 4 + 258 + 1


def run(source: Path, output: Path, tokenizer: Path | None = None) -> Path:
    import_.run(argparse.Namespace(source=source, output=output, dict=None, classes=None, tokenizer=tokenizer))
    return output


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "download").mkdir()
    torch.save(v2_text(vocab=VOCAB, depth=1), tmp_path / "download" / "nlp_base.pt")
    return tmp_path / "download" / "nlp_base.pt"


def test_fairseqs_files_beside_the_checkpoint(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gpt2_pair(source.parent)
    folder = run(source, tmp_path / "model")
    assert "imported: student, teacher, head, tokenizer" in capsys.readouterr().out
    assert read_config(folder)["assets"] == ["tokenizer.json"]
    assert any("the tokenizer is the one beside the checkpoint" in note for note in read_config(folder)["notes"])
    tokenizer = TextTokenizer.from_json(d2v.load(folder).assets["tokenizer.json"])
    assert (len(tokenizer), tokenizer.bos_id, tokenizer.pad_id, tokenizer.mask_id) == (VOCAB, 0, 1, VOCAB - 1)
    assert tokenizer.encode("wor") == [4]  # the first line of dict.txt
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert TextTokenizer.open(folder).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("form", ["folder", "file", "imported"])
def test_a_tokenizer_that_the_user_names(tmp_path: Path, source: Path, form: str) -> None:
    write_gpt2_pair(tmp_path / "bpe")
    named = {"folder": tmp_path / "bpe", "file": tmp_path / "bpe" / "encoder.json"}.get(form)
    if named is None:
        named = run(source, tmp_path / "first", tmp_path / "bpe")
    folder = run(source, tmp_path / "model", named)
    expected = TextTokenizer.open(tmp_path / "bpe").fingerprint
    assert TextTokenizer.from_json(d2v.load(folder).assets["tokenizer.json"]).fingerprint == expected
    assert not any("tokenizer" in note for note in read_config(folder)["notes"])


def test_no_tokenizer(tmp_path: Path, source: Path) -> None:
    folder = run(source, tmp_path / "model")
    assert d2v.load(folder).assets == {}
    note = next(note for note in read_config(folder)["notes"] if "tokenizer" in note)
    assert "import again with --tokenizer PATH" in note


def test_a_tokenizer_that_does_not_fit(tmp_path: Path, source: Path) -> None:
    large = TextTokenizer.train([TEXT * 9], 275)
    large.save(tmp_path / "large.json")
    assert len(large) > VOCAB
    with pytest.raises(UserError, match=rf"--tokenizer .*large.json: has {len(large)} ids, but .* {VOCAB}"):
        run(source, tmp_path / "model", tmp_path / "large.json")
    large.save(source.parent / "tokenizer.json")
    folder = run(source, tmp_path / "model")
    assert d2v.load(folder).assets == {}
    assert any("it is not used" in note for note in read_config(folder)["notes"])

    small = TextTokenizer.train([TEXT], 256)
    small.save(tmp_path / "small.json")
    folder = run(source, tmp_path / "other", tmp_path / "small.json")
    assert any(f"<mask> is {small.mask_id}" in note for note in read_config(folder)["notes"])


def test_a_tokenizer_where_none_belongs(tmp_path: Path, source: Path, make_v2_image) -> None:
    with pytest.raises(UserError, match="there is nothing of this name"):
        run(source, tmp_path / "model", tmp_path / "absent")
    write_gpt2_pair(tmp_path / "bpe")
    (tmp_path / "bpe" / "dict.txt").unlink()
    with pytest.raises(UserError, match=r"dict\.txt"):
        run(source, tmp_path / "model", tmp_path / "bpe")
    torch.save(make_v2_image(), tmp_path / "image.pt")
    with pytest.raises(UserError, match="is no model of text"):
        run(tmp_path / "image.pt", tmp_path / "model", tmp_path / "bpe")
    assert not (tmp_path / "model").exists()


def test_a_folder_of_hugging_face_holds_its_own(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_gpt2_pair(tmp_path / "bpe")
    tokenizer = TextTokenizer.open(tmp_path / "bpe")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.Data2VecTextConfig(vocab_size=VOCAB, max_position_embeddings=12, **sizes)
    transformers.Data2VecTextModel(config).save_pretrained(tmp_path / "hf")
    model = json.loads(tokenizer.to_json())["model"]
    (tmp_path / "hf" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tmp_path / "hf" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    found = TextTokenizer.from_json(d2v.load(run(tmp_path / "hf", tmp_path / "a")).assets["tokenizer.json"])
    assert found.encode(TEXT) == tokenizer.encode(TEXT)
    (tmp_path / "hf" / "vocab.json").unlink()
    tokenizer.save(tmp_path / "hf" / "tokenizer.json")
    found = TextTokenizer.from_json(d2v.load(run(tmp_path / "hf", tmp_path / "b")).assets["tokenizer.json"])
    assert found.fingerprint == tokenizer.fingerprint


def test_assets_are_read_from_the_folder_alone(tmp_path: Path, import_content) -> None:
    """The names in a config.json from elsewhere lead out of the folder no more than they exist."""
    folder = import_content(v1_text(depth=1))
    config = read_config(folder)
    (tmp_path / "secret.txt").write_text("secret")
    write_folder(tmp_path / "bad", read_weights(folder), {**config, "assets": ["../secret.txt"]}, "")
    with pytest.raises(UserError, match=r"names the asset .*refused"):
        d2v.load(tmp_path / "bad")
