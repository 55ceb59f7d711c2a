"""No pickle in a file or a folder from elsewhere is obeyed, whatever its form and its wrapping."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
from pickle_attacks import FORMS, WRAPS, attacks, object_tensor, torch_script

import d2v
from d2v.commands import import_
from d2v.errors import UserError


def run_import(source: Path) -> None:
    output = source.with_name("imported")
    import_.run(argparse.Namespace(source=source, output=output, dict=None, classes=None, tokenizer=None))


@pytest.mark.parametrize("form", FORMS)
def test_each_would_work_on_a_plain_unpickler(tmp_path: Path, form: str) -> None:
    pickle.loads(attacks(tmp_path / "canary")[form][0])
    assert (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("form", FORMS)
def test_load_and_import_refuse_it(tmp_path: Path, form: str, wrap: str) -> None:
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    data, wanted = attacks(canary)[form]
    WRAPS[wrap](path, data)
    for way_in in (d2v.load, run_import):
        with pytest.raises(UserError) as refused:
            way_in(path)
        assert str(path) in str(refused.value)
        assert wanted in str(refused.value) or wrap in ("tar", "bare")  # which are no checkpoints to begin with
    assert sorted(file.name for file in tmp_path.iterdir()) == ["evil.pt"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("wrap", [torch_script, object_tensor])
def test_odd_archives(tmp_path: Path, wrap: object) -> None:
    path, canary = tmp_path / "evil.ckpt", tmp_path / "canary"
    for form in FORMS:
        wrap(path, attacks(canary)[form][0])  # type: ignore[operator]
        with pytest.raises(UserError, match=str(path)):
            d2v.load(path)
        path.unlink()
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parts", [False, True])
def test_a_folder_of_hugging_face(tmp_path: Path, form: str, parts: bool) -> None:
    source, canary = tmp_path / "model", tmp_path / "canary"
    source.mkdir()
    code = f"open({str(canary)!r}, 'w')"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py"):
        (source / name).write_text(code)
    loaders = {"AutoModel": "modeling_evil.Model", "AutoConfig": "configuration_evil.Config"}
    (source / "config.json").write_text(json.dumps({"model_type": "data2vec-text", "auto_map": loaders}))
    (source / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "tokenization_evil.T"}}))
    data, wanted = attacks(canary)[form]
    file = source / ("pytorch_model-00001-of-00001.bin" if parts else "pytorch_model.bin")
    WRAPS["zip"](file, data)
    if parts:
        (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": file.name}}))
    with pytest.raises(UserError) as refused:
        run_import(source)
    assert str(file) in str(refused.value)
    assert wanted in str(refused.value)
    for way_in in (d2v.load, run_import):
        with pytest.raises(UserError):
            way_in(source)
    assert not canary.exists()
