"""What others made of data2vec: each layout arrives whole by `d2v import`, and broken ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import soundfile
import torch
import torch.nn.functional as F
from encoders import load_method, step
from safetensors.torch import load_file, save_file
from speech_checkpoints import recogniser, v1_audio, v2_audio
from text_checkpoints import linear, norm, v2_text

import d2v
from d2v.checkpoints.folder import read_config, read_weights
from d2v.checkpoints.head_files import load_head
from d2v.data.filter_banks import Spectrograms, normalised_mfcc, read_spectrograms
from d2v.errors import UserError
from d2v.types import Batch

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


def telespeech(width: int = 32, depth: int = 2, layers: tuple[int, int] = (24, 24)) -> State:
    """A 2.0 speech checkpoint that reads 40 cepstra by two convolutions, as TeleSpeech's."""
    content = v2_audio(width=width, depth=depth, decoder=(16, 2, 3, 4))
    prefix = "modality_encoders.AUDIO."
    state = content["model"]
    for name in list(state):
        if "local_encoder" in name or "project_features" in name:
            del state[name]
    channels = 40
    for number, outputs in enumerate(layers):
        state[f"{prefix}local_encoder.conv_layers.{number}.0.weight"] = torch.randn(outputs, channels, 3) * 0.1
        state |= norm(f"{prefix}local_encoder.conv_layers.{number}.2.1", outputs)
        channels = outputs
    state |= norm(f"{prefix}project_features.1", channels) | linear(f"{prefix}project_features.2", width, channels)
    section = content["cfg"]["model"]["modalities"]["audio"]
    section |= {"feature_encoder_spec": "[(24, 3, 2)] + [(24, 3, 2)]", "input_feature_ndim": 40}
    content["cfg"]["model"]["input_feature_ndim"] = 40
    return content


def test_telespeech(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = telespeech()
    folder = import_file(content, tmp_path / "a")
    assert read_config(folder)["source"]["layout"] == "TeleSpeech (data2vec 2.0 on cepstra)"
    encoder, state = d2v.load(folder), content["model"]
    x = torch.randn(2, 31, 40)
    expected = x.transpose(1, 2)
    for number in range(2):
        prefix = f"modality_encoders.AUDIO.local_encoder.conv_layers.{number}"
        expected = torch.conv1d(expected, state[f"{prefix}.0.weight"], stride=2).transpose(1, 2)
        weights = (state[f"{prefix}.2.1.weight"], state[f"{prefix}.2.1.bias"])
        expected = F.gelu(F.layer_norm(expected, (24,), *weights)).transpose(1, 2)
    prefix = "modality_encoders.AUDIO.project_features"
    normed = F.layer_norm(expected.transpose(1, 2), (24,), state[f"{prefix}.1.weight"], state[f"{prefix}.1.bias"])
    found = encoder.front.feature_extractor(x).tokens
    torch.testing.assert_close(found, F.linear(normed, state[f"{prefix}.2.weight"], state[f"{prefix}.2.bias"]))
    mask = torch.zeros(2, 31, dtype=torch.bool)
    mask[1, 20:] = True
    with torch.no_grad():
        padded, alone = encoder(x, mask), encoder(x[1:, :20])
    torch.testing.assert_close(padded.tokens[1, : alone.tokens.shape[1]], alone.tokens[0])
    tuned = import_file(recogniser(content, outputs=6), tmp_path / "b", dict__chr7531__txt="星 1\n辰 1\n")
    head = load_head(tuned)
    assert head is not None
    assert head.names == ("<s>", "<pad>", "</s>", "<unk>", "星", "辰")


def test_telespeech_of_sound_files(tmp_path: Path) -> None:
    """`d2v embed` makes the cepstra, and lengths are those of the sound."""
    folder = import_file(telespeech(), tmp_path)
    torch.manual_seed(0)
    (tmp_path / "sound").mkdir()
    for number, seconds in enumerate((0.5, 2.0, 2.01, 1.3)):
        wave = torch.randn(int(16_000 * seconds)) * 0.1
        soundfile.write(tmp_path / f"sound/{number}.wav", wave.numpy(), 16_000)
    d2v.embed_files(folder, tmp_path / "sound", tmp_path / "out.npz", pool="none", device="cpu")
    found = numpy.load(tmp_path / "out.npz")
    wave = soundfile.read(tmp_path / "sound/0.wav", dtype="float32")[0]
    with torch.no_grad():
        expected = d2v.load(folder)(normalised_mfcc(torch.from_numpy(wave))[None]).tokens[0]
    assert len(expected) == (8000 - 1360) // 640 + 1
    assert d2v.load(folder).front.num_tokens(numpy.array([1359, 8000])).tolist() == [0, len(expected)]
    torch.testing.assert_close(torch.from_numpy(found["embedding"][: len(expected)]), expected, atol=1e-5, rtol=1e-5)


def eat(width: int = 64, depth: int = 2, rows: int = 128, classes: int = 0, side: int = 16) -> State:
    """Tensors of EAT in fairseq's names, without a teacher; with a classifier if there are classes."""
    prefix = "modality_encoders.IMAGE."
    state: State = {
        f"{prefix}extra_tokens": torch.randn(1, 1, width),
        f"{prefix}local_encoder.proj.weight": torch.randn(width, 1, side, side) * 0.1,
        f"{prefix}local_encoder.proj.bias": torch.randn(width),
        f"{prefix}fixed_positional_encoder.positions": torch.randn(1, rows, width),
        **norm(f"{prefix}context_encoder.norm", width),
    }
    for number in range(depth):
        name = f"blocks.{number}"
        state |= linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
        state |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
        state |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
    if classes:
        state |= norm("fc_norm", width) | linear("head", classes, width)
    return state


def eat_file(state: State, prefix: str = "", depth: int = 2, **task: Any) -> State:
    """The file of fairseq with these tensors and, if ``task`` is given, the settings of a fine-tuning."""
    image = {"in_chans": 1, "target_length": 256, "max_length": 16, "mask_prob": 0.8, "mask_length": 5}
    image |= {"mask_prob_adjust": 0.07, "inverse_mask": True, "num_extra_tokens": 1, "ema_local_encoder": True}
    model: State = {"_name": "data2vec_multi", "depth": depth, "embed_dim": 64, "num_heads": 1, "norm_eps": 1e-6}
    model |= {"modalities": {"image": image}, "cls_loss": 1, "encoder_dropout": 0, "layer_norm_targets": True}
    cfg: State = {"model": model, "task": {"target_length": 256, "audio_mae": True}}
    if task:
        own = {"_name": "mae_image_classification", "prediction_mode": "CLS_TOKEN", "pretrained_model_args": cfg}
        cfg = {"model": own, "task": task}
    return {"args": None, "cfg": cfg, "model": {prefix + name: value for name, value in state.items()}}


def eat_folder(place: Path, state: State, **config: Any) -> Path:
    """The folder of transformers with these tensors."""
    place.mkdir(parents=True)
    said = {"model_type": "eat", "architectures": ["EATModel"], "num_heads": 1, "norm_eps": 1e-6, **config}
    (place / "config.json").write_text(json.dumps(said))
    save_file(in_one_model(state, "model."), place / "model.safetensors", {"format": "pt"})
    return place


def in_one_model(state: State, prefix: str) -> State:
    """Names of EAT in transformers, and with another prefix AVEX's."""
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("modality_encoders.IMAGE.").replace("context_encoder.norm.", "pre_norm.")
        renamed[prefix + name] = value.clone()
    return renamed


def spectrograms_of(path: Path) -> Spectrograms:
    made = read_spectrograms(d2v.load(path).assets)
    assert made is not None
    return made


def test_eat_is_one_model_in_every_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = eat(classes=3)
    source = torch.randn(2, 1, 96, 128)
    files = {"fairseq.pt": eat_file(eat()), "tuned.pt": eat_file(state, "model.", target_length=96, esc50_eval=True)}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    eat_folder(tmp_path / "folder", state, model_variant="finetune", id2label={"0": "a", "1": "b", "2": "c"})
    with torch.no_grad():
        tokens = [d2v.load(tmp_path / name)(source).tokens for name in ("tuned.pt", "folder")]
        torch.testing.assert_close(*tokens)
        assert d2v.load(tmp_path / "fairseq.pt")(source).tokens.shape == (2, 48, 64)
    assert spectrograms_of(tmp_path / "tuned.pt") == (-6.627, 5.359, 128, 96)  # ESC-50's
    assert spectrograms_of(tmp_path / "fairseq.pt") == (-4.268, 4.569, 128, 256)
    tuned, folder = load_head(tmp_path / "tuned.pt"), load_head(tmp_path / "folder")
    assert tuned is not None
    assert folder is not None
    assert (tuned.task, tuned.pool, folder.task, folder.names) == ("single", "cls", "multi", ("a", "b", "c"))
    assert (tuned.module.norm.eps, folder.module.norm.eps) == (1e-6, 1e-5)


@pytest.mark.parametrize("prefix", ["backbone.model.", "model.", "", "fairseq"])
def test_avex(tmp_path: Path, prefix: str) -> None:
    state = eat(classes=3)
    tensors = {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
    if prefix != "fairseq":
        tensors = in_one_model(tensors, prefix)
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = state[f"head.{part}"]
    save_file(tensors, tmp_path / "esp.safetensors")
    (tmp_path / "label_map.json").write_text(json.dumps({"b": 1, "a": 0, "c": 2}))
    encoder, head = d2v.load(tmp_path / "esp.safetensors"), load_head(tmp_path / "esp.safetensors")
    assert read_spectrograms(encoder.assets) == (-5.553, 4.606, 128, 256)
    assert encoder.trunk.num_heads == 1
    assert head is not None
    assert (head.names, head.pool, head.has_norm) == (("a", "b", "c"), "cls", False)
    torch.save(eat_file(state, "model.", target_length=96), tmp_path / "same.pt")
    source = torch.randn(1, 1, 64, 128)
    with torch.no_grad():
        torch.testing.assert_close(encoder(source).tokens, d2v.load(tmp_path / "same.pt")(source).tokens)


def test_a_pretraining_goes_on_from_eat(tmp_path: Path) -> None:
    content = eat_file(eat())
    content["model"]["_ema"] = {name: value + 0.1 for name, value in eat().items()}
    folder = import_file(content, tmp_path)
    method = load_method(folder)
    batch = Batch(torch.randn(2, 1, 256, 128), torch.arange(2), torch.zeros(2, dtype=torch.int64))
    output = step(method, batch)
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.cls_loss is not None
    assert read_config(folder)["left_out"] == []


Break = Callable[[State], None]


def _nan(state: State) -> None:
    state["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")


def _missing(state: State) -> None:
    del state["blocks.0.attn.qkv.weight"]


def _odd(state: State) -> None:
    state["blocks.0.attn.qkv.weight"] = torch.zeros(3)


BREAKS = [(_nan, "not finite"), (_missing, "is missing"), (_odd, "has the shape")]


@pytest.mark.parametrize(("harm", "message"), BREAKS)
@pytest.mark.parametrize("make", [lambda: eat_file(eat()), telespeech, lambda: recogniser(telespeech())])
def test_a_broken_file(tmp_path: Path, make: Callable[[], State], harm: Break, message: str) -> None:
    content = make()
    state = content["model"]
    inner = {name.removeprefix("w2v_encoder.w2v_model."): value for name, value in state.items()}
    harm(inner)
    content["model"] = inner
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=f"^{tmp_path / 'model.pt'}: .*{message}"):
        d2v.load(tmp_path / "model.pt")


@pytest.mark.parametrize(("harm", "message"), BREAKS)
def test_a_broken_eat_or_avex(tmp_path: Path, harm: Break, message: str) -> None:
    state = eat()
    harm(state)
    folder = eat_folder(tmp_path / "theirs", state)
    save_file(in_one_model(state, "backbone.model."), tmp_path / "esp.safetensors")
    for path in (folder, tmp_path / "esp.safetensors"):
        with pytest.raises(UserError, match=f"^{path}: .*{message}"):
            d2v.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 127}, "127 positions are no rows of 8 patches"),
        ({"side": 13}, "128 positions are no rows of 9 patches"),
    ],
)
def test_a_grid_of_no_spectrogram(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_file(eat_file(eat(**changes)), tmp_path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "esp.safetensors")
    with pytest.raises(UserError, match=r"esp.safetensors: not recognised \(it holds nothing\)"):
        d2v.load(tmp_path / "esp.safetensors")


@pytest.mark.parametrize(("harm", "message"), BREAKS)
@pytest.mark.parametrize("make", [v2_audio, v2_text])
def test_a_broken_pantagruel(tmp_path: Path, make: Callable[[], State], harm: Break, message: str) -> None:
    content = make()
    harm(content["model"])
    folder = pantagruel(tmp_path / "theirs", content)
    with pytest.raises(UserError, match=f"^{folder}: .*{message}"):
        d2v.load(folder)
