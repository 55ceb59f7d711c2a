"""`d2v import` of emotion2vec and emotion2vec+ in each layout: a file with settings or beside them, a model folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from speech_checkpoints import State, v2_audio

import d2v
from d2v.checkpoints.folder import read_config
from d2v.checkpoints.head_files import load_head
from d2v.errors import UserError

TOKENS = ["生气/angry", "unuse_0", "开心/happy", "unuse_1", "<unk>"]


def emotion2vec(**model: Any) -> State:
    return v2_audio(prenet=1, extra=10, norm_eps=1e-5, cls_loss=1, cls_type="chunk", **model)


def plus(classes: int = 5, width: int = 32) -> State:
    """emotion2vec+: no teacher, no decoder, a linear layer on the mean of the frames."""
    content = emotion2vec()
    state = {}
    for name, value in content["model"].items():
        if name != "_ema" and ".decoder." not in name:
            state[f"d2v_model.{name}"] = value
    state |= {"proj.weight": torch.randn(classes, width), "proj.bias": torch.randn(classes)}
    return {"cfg": content["cfg"], "model": state}


def model_folder(folder: Path, content: State, tokens: list[str] | None = None, name: str = "model.pt") -> Path:
    """As FunASR's are: the settings in YAML beside the weights."""
    folder.mkdir()
    settings = yaml.safe_dump({"model": "Emotion2vec", "model_conf": content["cfg"]["model"], "tokenizer": "Char"})
    assert "norm_eps: 1.0e-05" in settings
    (folder / "config.yaml").write_text(settings.replace("norm_eps: 1.0e-05", "norm_eps: 1e-05"))
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": {"init_param": name}}))
    torch.save({"model": content["model"]}, folder / name)
    if tokens:
        (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    return folder


@pytest.mark.parametrize("layout", ["with settings", "file beside settings", "folder", "folder of two files"])
def test_each_layout_gives_the_same_model(layout: str, tmp_path: Path) -> None:
    content = emotion2vec()
    torch.save(content, tmp_path / "whole.pt")
    source = tmp_path / "whole.pt"
    if layout != "with settings":
        source = model_folder(tmp_path / "model", content)
    if layout == "file beside settings":
        source = source / "model.pt"
    if layout == "folder of two files":
        torch.save({"model": {}}, source / "another.pt")
    output = tmp_path / "imported"
    d2v.import_checkpoint(source, output)
    d2v.import_checkpoint(tmp_path / "whole.pt", tmp_path / "expected")
    config = read_config(output)
    assert config["method"] == read_config(tmp_path / "expected")["method"]
    assert config["method"]["student"]["front"]["init_args"]["num_cls"] == 10
    assert config["method"]["student"]["trunk"]["eps"] == 1e-5
    assert config["method"]["cls_loss"]["init_args"] == {"weight": 1.0, "rows": 1, "tokens": "mean"}
    assert config["left_out"] == []
    clip = torch.randn(2, 400)
    assert torch.equal(d2v.load(output).embed(clip), d2v.load(tmp_path / "expected").embed(clip))
    teacher = d2v.load(output, "teacher")
    torch.testing.assert_close(teacher.embed(clip, pool="cls"), teacher(clip).cls.mean(dim=1))


def test_the_classifier_scores_the_mean_of_the_frames(tmp_path: Path) -> None:
    content = plus()
    d2v.import_checkpoint(model_folder(tmp_path / "plus", content, TOKENS), tmp_path / "imported")
    head, encoder = load_head(tmp_path / "imported"), d2v.load(tmp_path / "imported")
    assert head is not None
    assert (head.names, head.task, head.pool) == (("生气/angry", "开心/happy", "<unk>"), "single", "mean")
    mean = encoder(torch.randn(2, 400)).tokens.mean(dim=1)
    official = mean @ content["model"]["proj.weight"].T + content["model"]["proj.bias"]
    official[:, [1, 3]] = -torch.inf  # as FunASR does with those that are unused
    expected = official.softmax(dim=-1)[:, [0, 2, 4]]
    torch.testing.assert_close(head.module(mean).softmax(dim=-1), expected)
    notes = read_config(tmp_path / "imported")["notes"]
    assert any("2 outputs of the classifier that nobody uses" in note for note in notes)
    assert any("there is no decoder" in note for note in notes)


@pytest.mark.parametrize("tokens", [TOKENS, ["a"] * 4, [f"unuse_{number}" for number in range(4)]])
def test_names_that_do_not_fit_are_not_used(tokens: list[str], tmp_path: Path) -> None:
    d2v.import_checkpoint(model_folder(tmp_path / "plus", plus(4), tokens), tmp_path / "imported")
    head = load_head(tmp_path / "imported")
    assert head is not None
    assert (head.names, head.num_outputs) == (None, 4)
    assert any("the names are not taken" in note for note in read_config(tmp_path / "imported")["notes"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("model_conf: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("model_conf: " + "[" * 900, "nested too deeply"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "model_conf: &c [" + "*b, " * 4000 + "*b]", "10,000 values"),
        ("model_conf: 3", "no cfg.model section"),
        ("[1, 2]", "no cfg.model section"),
        ("model_conf: {num_heads: many}", "cannot be understood"),
        ("model_conf: {num_heads: 4, norm_eps: .nan}", "norm_eps is nan"),
        ("model_conf: {num_heads: 4, modalities: {audio: {feature_encoder_spec: '[(8, 10, 5)] * 10**9'}}}", "no list"),
        ("\x00", "not valid YAML|cannot be read"),
    ],
)
def test_hostile_settings_are_refused(settings: str, message: str, tmp_path: Path) -> None:
    source = model_folder(tmp_path / "model", emotion2vec())
    (source / "config.yaml").write_text(settings)
    with pytest.raises(UserError, match=message) as refusal:
        d2v.import_checkpoint(source, tmp_path / "imported")
    assert str(refusal.value).startswith(str(source))
    assert not (tmp_path / "imported").exists()


def test_which_of_several_files_it_is_must_be_told(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "model", emotion2vec())
    torch.save({}, source / "another.pt")
    for contents, message in (
        (
            '{"file_path_metas": {"init_param": "../another.pt"}}',
            r"does not say which model; give one of \S+/another\.pt, \S+/model\.pt",
        ),
        ("[" * 100_000, r"configuration\.json: not readable"),
    ):
        (source / "configuration.json").write_text(contents)
        with pytest.raises(UserError, match=message):
            d2v.import_checkpoint(source, tmp_path / "imported")


def test_tensors_that_lie_are_refused(tmp_path: Path) -> None:
    content = plus(width=16)
    for number, (tokens, message) in enumerate(
        (
            (torch.zeros(1).expand(1, 10, 2**40), "of which the file holds 4 bytes"),
            (torch.zeros(1, 10, 32, device="meta"), "refused"),
        )
    ):
        content["model"]["d2v_model.modality_encoders.AUDIO.extra_tokens"] = tokens
        with pytest.raises(UserError, match=message):
            d2v.import_checkpoint(model_folder(tmp_path / f"model{number}", content), tmp_path / "imported")
