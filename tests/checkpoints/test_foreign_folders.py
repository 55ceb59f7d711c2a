"""Folders of foreign checkpoints as a stranger might send them: files without end, lies in settings, one file in it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from speech_checkpoints import recogniser, v2_audio
from test_import_descendants import eat, eat_file, eat_folder, pantagruel, telespeech
from test_import_emotion2vec import TOKENS, model_folder, plus
from text_checkpoints import v2_text
from torch import Tensor

import d2v
from d2v.checkpoints.head_files import load_head
from d2v.commands.arguments import parameters_of
from d2v.errors import UserError
from d2v.finetuning.ctc import CTCModule
from d2v.modalities.audio.data import AudioDataModule
from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.training.schedules import WarmupCosine
from d2v.types import Batch


def endless(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(2**30)


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("tokens.txt", huge, r"tokens\.txt: has more than 20 MB"),
        ("config.yaml", huge, r"config\.yaml: has more than 1 MB"),
        ("configuration.json", huge, r"configuration\.json: has more than 20 MB"),
        ("model.pt", endless, r"model\.pt: no such file"),
        ("model.pt", pipe, r"model\.pt: no such file"),
        ("config.json", huge, r"config\.json: has more than 20 MB"),
    ],
)
def test_files_without_end(tmp_path: Path, name: str, harm: Callable[[Path], None], message: str) -> None:
    source = model_folder(tmp_path / "model", plus(), TOKENS)
    harm(source / name)
    with pytest.raises(UserError, match=message):
        d2v.import_checkpoint(source, tmp_path / "imported")


def test_a_folder_with_one_file_of_weights(tmp_path: Path) -> None:
    """What lies beside the file is found as if the file itself had been named."""
    (tmp_path / "theirs").mkdir()
    torch.save(recogniser(v2_audio(), 12), tmp_path / "theirs/large.pt")
    (tmp_path / "theirs/dict.chr.txt").write_text("".join(f"{letter} 1\n" for letter in "|abcdefg"))
    d2v.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    head = load_head(tmp_path / "imported")
    assert head is not None
    assert head.names is not None
    assert head.names[4:] == tuple("|abcdefg")
    torch.save({}, tmp_path / "theirs/base.pt")
    with pytest.raises(UserError, match=r"does not say which model; give one of \S+theirs/base.pt, \S+theirs/large.pt"):
        d2v.import_checkpoint(tmp_path / "theirs", tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": -2}, "not a multiple of num_heads -2"),
        ({"attention_dropout": "much"}, "cannot be built"),
        ({"attention_dropout": 7}, "probability has to be between 0 and 1, but got 7"),
    ],
)
def test_lies_in_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    content = eat_file(eat())
    content["cfg"]["model"] |= changes
    torch.save(content, tmp_path / "eat.pt")
    with pytest.raises(UserError, match=message):
        d2v.import_checkpoint(tmp_path / "eat.pt", tmp_path / "imported")


def test_patches_that_overlap_and_complex_numbers(tmp_path: Path) -> None:
    folder = eat_folder(tmp_path / "eat", eat(), stride=8)
    with pytest.raises(UserError, match="stride is 8: d2v's patches lie side by side, 16 apart"):
        d2v.import_checkpoint(folder, tmp_path / "imported")
    content = eat_file(eat())
    content["model"]["blocks.0.mlp.fc1.weight"] = content["model"]["blocks.0.mlp.fc1.weight"].to(torch.complex64)
    torch.save(content, tmp_path / "eat.pt")
    with pytest.raises(UserError, match=r"student\.trunk\.blocks\.0\.mlp\.0\.weight is missing or odd"):
        d2v.import_checkpoint(tmp_path / "eat.pt", tmp_path / "imported")


def test_names_of_classes_as_audioset_has_them(tmp_path: Path) -> None:
    state = eat(classes=3)
    torch.save(eat_file(state, "model."), tmp_path / "eat.pt")
    table = tmp_path / "class_labels_indices.csv"
    table.write_text('index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, a man"\n2,/m/0,Dog\n')
    d2v.import_checkpoint(tmp_path / "eat.pt", tmp_path / "imported", classes=table)
    head = load_head(tmp_path / "imported")
    assert head is not None
    assert head.names == ("Speech", "Male speech, a man", "Dog")


def test_a_head_for_words_is_exported(tmp_path: Path) -> None:
    words = {"lm_head.bias": torch.randn(40)}
    d2v.import_checkpoint(pantagruel(tmp_path / "theirs", v2_text(), more=words), tmp_path / "imported")
    d2v.export_checkpoint(tmp_path / "imported", tmp_path / "exported", "safetensors")
    assert torch.equal(load_file(tmp_path / "exported/lm_head.safetensors")["lm_head.bias"], words["lm_head.bias"])


def test_what_predict_knows_of_a_data_module() -> None:
    """Spectrograms have one length, which their DataModule hands to its base, whereas that of waves has a default."""
    assert "max_eval_seconds" not in parameters_of(AudioDataModule)
    assert parameters_of(LibriSpeechDataModule)["max_eval_seconds"].default is None
    assert parameters_of(AudioDataModule)["max_hours"].default is None


def test_cepstra_are_transcribed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TeleSpeech's recogniser reads rows of cepstra: a clip, a shorter one, a silent one; as a whole and in chunks."""
    torch.save(recogniser(telespeech(), 12), tmp_path / "large.pt")
    (tmp_path / "dict.chr.txt").write_text("".join(f"{letter} 1\n" for letter in "|abcdefg"))
    clips = torch.randn(3, 150, 40)
    clips[2] = 0
    padding = torch.arange(150) >= torch.tensor([150, 70, 150])[:, None]
    batch = Batch(clips, torch.arange(3), torch.zeros(3, dtype=torch.long), None, padding)
    for seconds, longest in ((0.8, 80), (30.0, 150)):
        start = {"checkpoint": str(tmp_path / "large.pt"), "optimizer": torch.optim.Adam, "schedule": WarmupCosine(0.1)}
        module = CTCModule(chunk_seconds=seconds, overlap_seconds=0.2, **start)
        module._first_head((), fit=False)
        lengths: list[int] = []
        extract = module.student.extract

        def spy(x: Tensor, mask: Tensor | None = None, extract: Any = extract, seen: list[int] = lengths) -> Any:
            seen.append(x.shape[1])
            return extract(x, mask)

        monkeypatch.setattr(module.student, "extract", spy)
        with torch.no_grad():
            rows = module.eval().predict_step(batch, 0)["rows"]
        assert rows.notes == ["", "", "silent"]
        assert max(lengths) <= longest
        assert [bool(text) for (text,) in rows.values] == [True, True, False]
