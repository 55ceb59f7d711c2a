"""Imported recognisers keep their head and its symbols."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speech_checkpoints import State, recogniser, v1_audio, v2_audio

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import FILE, load_head
from d2v.commands import import_
from d2v.errors import UserError

Import = Callable[..., Path]


@pytest.mark.parametrize("make", [v1_audio, v2_audio])
def test_a_recogniser_keeps_its_head(make: Callable[..., State], import_content: Import) -> None:
    pretrained = make()
    content = recogniser(pretrained)
    folder = import_content(content)
    head = load_head(folder)
    assert torch.equal(head.weights["proj.weight"], content["model"]["w2v_encoder.proj.weight"])
    assert torch.equal(head.weights["proj.bias"], content["model"]["w2v_encoder.proj.bias"])
    assert (head.task, head.names[:6]) == ("ctc", ("<s>", "<pad>", "</s>", "<unk>", "|", "E"))
    assert (len(head.names), head.names[-1]) == (32, "Z")
    assert "CTC head (32 symbols)" in (folder / "README.md").read_text()
    config = read_config(folder)
    assert config["left_out"] == []
    assert any("fairseq's usual 32" in note for note in config["notes"])
    x = torch.randn(1, 300)
    with torch.no_grad():
        torch.testing.assert_close(d2v.load(folder)(x).tokens, d2v.load(import_content(pretrained, "other"))(x).tokens)
    assert load_head(folder.with_name("other")) is None


def test_symbols_of_a_recogniser(tmp_path: Path, import_content: Import) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("| 10\nA 5\nB 3\n")
    source = tmp_path / "model.pt"
    torch.save(recogniser(v1_audio(), outputs=7), source)

    def run(name: str, dictionary: Path | None) -> Path:
        import_.run(
            argparse.Namespace(source=source, output=tmp_path / name, dict=dictionary, classes=None, tokenizer=None)
        )
        return tmp_path / name

    assert load_head(run("given", letters)).names == ("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B")
    unknown = run("unknown", None)
    assert load_head(unknown) is None
    assert any("import again with --dict FILE" in note for note in read_config(unknown)["notes"])
    letters.rename(tmp_path / "dict.ltr.txt")
    assert load_head(run("beside", None)).names[-1] == "B"

    (tmp_path / "short.txt").write_text("| 10\nA 5\n")
    with pytest.raises(UserError, match=r"short.txt: makes 6 symbols .* 7 outputs"):
        run("short", tmp_path / "short.txt")
    torch.save(v1_audio(), source)
    with pytest.raises(UserError, match=r"--dict .*holds no recogniser"):
        run("none", letters.with_name("dict.ltr.txt"))
    assert not (tmp_path / "none").exists()


def test_a_damaged_head(import_content: Import) -> None:
    folder = import_content(recogniser(v1_audio()))
    (folder / FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match="does not go with"):
        load_head(folder)
