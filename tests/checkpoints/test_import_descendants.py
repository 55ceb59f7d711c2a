"""What others made of data2vec: each layout arrives whole by `d2v import`, and broken ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from speech_checkpoints import recogniser, v1_audio, v2_audio
from text_checkpoints import linear, norm, v2_text

import d2v
from d2v.checkpoints.folder import read_config, read_weights
from d2v.checkpoints.head_files import load_head
from d2v.errors import UserError

State = dict[str, Any]


def import_file(content: State, place: Path, **files: str) -> Path:
    """Import a torch file with text files beside it (their names with _ for the dot); the new folder."""
    (place / "source").mkdir(parents=True)
    torch.save(content, place / "source/model.pt")
    for name, text in files.items():
        (place / "source" / name.replace("__", ".")).write_text(text)
    d2v.import_checkpoint(place / "source/model.pt", place / "imported")
    return place / "imported"


def pantagruel(place: Path, content: State, prefix: str = "", more: State | None = None) -> Path:
    """A folder of Pantagruel with the tensors of a 2.0 checkpoint, and defaults of transformers that say nothing."""
    place.mkdir(parents=True)
    state: State = dict(more or {})
    for name, value in content["model"].items():
        if name != "_ema" and ".decoder." not in name:
            state[prefix + name] = value.clone()
    save_file(state, place / "model.safetensors", {"format": "pt"})
    defaults = {"hidden_size": 768, "num_hidden_layers": 12, "n_layers": 12, "num_layers": 12, "max_length": 20}
    config = {"model_type": "pantagruel_uni", **defaults, **content["cfg"]["model"]}
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_pantagruel_text_keeps_its_head_for_words(tmp_path: Path) -> None:
    content = v2_text()
    head = {**linear("lm_head.dense", 32, 32), **norm("lm_head.layer_norm", 32), "lm_head.bias": torch.randn(40)}
    folder = pantagruel(tmp_path / "theirs", content, "pantagruel_uni.", head)
    summary = d2v.import_checkpoint(folder, tmp_path / "imported")
    assert "Pantagruel text (data2vec 2.0)" in str(summary)
    kept = load_file(tmp_path / "imported/lm_head.safetensors")
    assert kept.keys() == head.keys()
    assert all(torch.equal(kept[name], head[name]) for name in head)
    assert read_config(tmp_path / "imported")["left_out"] == []
    (tmp_path / "fairseq").mkdir()
    torch.save(content, tmp_path / "fairseq/model.pt")
    ids = torch.tensor([[0, 5, 6, 2]])
    with torch.no_grad():
        ours, theirs = (d2v.load(tmp_path / path)(ids).tokens for path in ("imported", "fairseq/model.pt"))
    assert torch.equal(ours, theirs)


def aqc(content: State) -> State:
    """Add what data2vec-aqc has beside data2vec 1.0: a quantizer and the projections of its contrastive loss."""
    more: State = {"quantizer.vars": torch.randn(1, 8, 4), **linear("quantizer.weight_proj", 8, 12)}
    more |= {**linear("project_q", 6, 8), **linear("contr_proj", 6, 32)}
    model = {**content["model"], **more}
    settings = {**content["cfg"]["model"], "final_proj_dim": 6, "cluster_factor": 16, "scale_factor": 0.3}
    return {**content, "cfg": {"model": settings}, "model": model}


def test_data2vec_aqc(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = v1_audio()
    folder = import_file(aqc(plain), tmp_path / "a")
    expected = import_file(plain, tmp_path / "b")
    ours, theirs = read_weights(folder), read_weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    config = read_config(folder)
    assert config["source"]["layout"] == "data2vec-aqc speech (data2vec 1.0)"
    assert sorted(config["left_out"]) == sorted(set(aqc(plain)["model"]) - set(plain["model"]))
    tuned = import_file(recogniser(aqc(plain), outputs=7), tmp_path / "c", dict__hi__txt="| 1\na 1\nb 1\n")
    head = load_head(tuned)
    assert head is not None
    assert head.names == ("<s>", "<pad>", "</s>", "<unk>", "|", "a", "b")


def test_a_quantizer_alone_is_wav2vec(tmp_path: Path) -> None:
    content = aqc(v1_audio())
    del content["model"]["contr_proj.weight"]
    with pytest.raises(UserError, match=r"a wav2vec 2.0 model \(it has a quantizer\)"):
        import_file(content, tmp_path)


Break = Callable[[State], None]


def _nan(state: State) -> None:
    state["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")


def _missing(state: State) -> None:
    del state["blocks.0.attn.qkv.weight"]


def _odd(state: State) -> None:
    state["blocks.0.attn.qkv.weight"] = torch.zeros(3)


BREAKS = [(_nan, "not finite"), (_missing, "is missing"), (_odd, "has the shape")]


@pytest.mark.parametrize(("harm", "message"), BREAKS)
@pytest.mark.parametrize("make", [v2_audio, v2_text])
def test_a_broken_pantagruel(tmp_path: Path, make: Callable[[], State], harm: Break, message: str) -> None:
    content = make()
    harm(content["model"])
    folder = pantagruel(tmp_path / "theirs", content)
    with pytest.raises(UserError, match=f"^{folder}: .*{message}"):
        d2v.load(folder)
