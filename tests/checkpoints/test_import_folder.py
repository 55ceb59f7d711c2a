"""`d2v import` of folders: those of Hugging Face, and what is refused. What they become: tests/parity."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d2v.commands import import_
from d2v.errors import UserError

Make = Callable[..., dict[str, Any]]
Import = Callable[..., Path]


def import_folder(folder: Path) -> None:
    import_.run(
        argparse.Namespace(source=folder, output=folder.with_name("new"), dict=None, classes=None, tokenizer=None)
    )


def test_a_folder_is_a_source_only_if_it_is_one_of_hugging_face(
    tmp_path: Path, make_v2_image: Make, import_content: Import
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: holds no weights \(.safetensors, .bin, .pt, .pth\)"):
        import_folder(tmp_path / "folder")
    with pytest.raises(UserError, match="itself, which needs no import"):
        import_folder(import_content(make_v2_image()))


AUDIO = {"model_type": "data2vec-audio"}


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ("{", None, "config.json: not readable"),
        ([], None, "config.json: holds a list"),
        ({"model_type": "bert"}, None, "of type 'bert'"),
        ({**AUDIO, "add_adapter": True}, None, "add_adapter is True"),
        ({**AUDIO, "hidden_act": "relu"}, None, "hidden_act is 'relu'"),
        (AUDIO, None, "holds neither model.safetensors nor pytorch_model.bin"),
        (AUDIO, "model.safetensors.index.json", "model.safetensors.index.json: not readable"),
        (AUDIO, "model.safetensors", "model.safetensors: not readable"),
        (AUDIO, "pytorch_model.bin", "not a readable torch checkpoint"),
    ],
)
def test_a_broken_folder_of_hugging_face(tmp_path: Path, config: Any, weights: str | None, message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights:
        (source / weights).write_text("not a checkpoint")
    with pytest.raises(UserError, match=message) as refusal:
        import_folder(source)
    assert str(refusal.value).startswith(str(source))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
