"""`d2v export --format hf` of what transformers has no class for: the file that goes with it, run by transformers."""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import classifier, linear_head, make_encoder, recogniser, run_export, save
from torch import Tensor

import d2v
from d2v.checkpoints.export.program import Program
from d2v.checkpoints.head_files import load_head
from d2v.errors import UserError
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.modalities.speech.front_end import SpeechFrontEnd
from d2v.modalities.text.front_end import TextFrontEnd
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.encoder import Encoder
from d2v.nn.transformer import Transformer
from d2v.official.hugging_face import own_class
from d2v.official.recognise import read_official

transformers = pytest.importorskip("transformers")

CODE = Path(own_class.__file__).with_name("modeling_d2v.py")
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "'"]
SPEECH = {"prenet_depth": 1, "dropout": 0.1}
ENCODERS = {
    "pictures": ("vision2", {}, (2, 3, 16, 24)),
    "pictures of another size": ("vision2", {"num_cls": 2, "prenet_depth": 0}, (1, 3, 24, 20)),
    "speech": ("speech2", SPEECH, (3, 900)),
    "speech, 3 heads": ("speech2", {"width": 24, "num_heads": 3, "position_layers": 1}, (3, 900)),
    "speech, ten tokens before it": ("speech2_ten", {}, (3, 900)),
    "spectrograms": ("audio", {}, (2, 1, 64, 8)),
    "shorter spectrograms": ("audio", {}, (2, 1, 44, 8)),
    "text": ("text2", {"alibi": False, "max_positions": 33, "prenet_depth": 2}, (3, 30)),
    "text with ALiBi": ("text2", {}, (3, 30)),
}


@pytest.fixture(autouse=True)
def _code_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code"))


def load_with_its_code(folder: Path, auto: str, **changes: Any) -> Any:
    return getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True, **changes)


def load(folder: Path, name: str = "D2vModel", **changes: Any) -> Any:
    """Of the code in this repository, which saves the time to import that in the folder."""
    from d2v.official.hugging_face import modeling_d2v

    return getattr(modeling_d2v, name).from_pretrained(folder, **changes)


def export(tmp_path: Path, encoder: Encoder, *head: Any, **ours: Any) -> Path:
    return run_export(save(tmp_path / "a.ckpt", encoder, *head, **ours), "hf", tmp_path / "hf")


def batch(shape: tuple[int, ...], vocab_size: int = 40) -> tuple[Tensor, Tensor | None]:
    """Inputs, and a mask of all but pictures, in which clips and texts have other lengths."""
    if len(shape) == 4:
        return torch.randn(shape), None
    x = torch.randint(4, vocab_size, shape) if shape[1] < 100 else torch.randn(shape)
    lengths = torch.linspace(shape[1], shape[1] // 3, shape[0]).long()
    return x, (torch.arange(shape[1]) < lengths[:, None]).long()


def assert_close(ours: Tensor, theirs: Tensor, padding: Tensor | None = None) -> None:
    if padding is not None:
        ours, theirs = ours[~padding], theirs[~padding]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def assert_same_weights(ours: torch.nn.Module, found: torch.nn.Module) -> None:
    expected, weights = ours.state_dict(), found.state_dict()
    assert expected.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_features_of_all_layers(tmp_path: Path, name: str) -> None:
    kind, changes, shape = ENCODERS[name]
    encoder = make_encoder(kind, **changes)
    folder = export(tmp_path, encoder)
    model, info = load(folder, output_loading_info=True)
    assert not any(info.values()), info
    x, mask = batch(shape)
    hidden = None if mask is None else mask == 0
    ours, found = encoder(x, hidden), model(x, mask, output_hidden_states=True)
    extra = model.config.num_extra_tokens
    assert extra == encoder.front.num_cls
    assert_close(ours.tokens, found.last_hidden_state[:, extra:], ours.padding_mask)
    for end, state in zip(ours.layers, found.hidden_states[1:], strict=True):
        assert_close(end, state[:, extra:], ours.padding_mask)
    assert_close(encoder.embed(x, padding_mask=hidden), found.pooler_output)
    if extra:
        assert_close(ours.cls, found.last_hidden_state[:, :extra])
    if mask is not None:
        assert torch.equal(ours.padding_mask, ~found.attention_mask[:, extra:])
    named = model(**{model.main_input_name: x}, attention_mask=mask, output_attentions=True, return_dict=False)
    assert_close(found.last_hidden_state, named[0])
    assert_close(torch.ones(()), named[2][-1].sum(dim=-1)[0].mean())
    assert_same_weights(encoder, d2v.load(folder))
    model.save_pretrained(tmp_path / "again")
    assert_same_weights(encoder, d2v.load(tmp_path / "again"))
    assert_same_weights(model, load(tmp_path / "again"))


HEADS = {
    "pictures": ({"norm": True}, "mean", "single"),
    "pictures of another size": ({}, "cls", "multi"),
    "speech": ({"tanh": True}, "mean", "regression"),
    "text": ({"norm": True, "tanh": True}, "cls", "single"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_classifiers(tmp_path: Path, name: str) -> None:
    kind, changes, shape = ENCODERS[name]
    form, pool, task = HEADS[name]
    encoder, head = make_encoder(kind, **changes), linear_head(3, **form)
    folder = export(tmp_path, encoder, head, **classifier(["x", "y", "z"], head, pool, task))
    model = load(folder, "D2vForClassification")
    x, mask = batch(shape)
    found, stored = model(x, mask), load_head(folder)
    ours = Program(encoder, stored)(x, None if mask is None else mask == 0)[0]
    assert_close(ours, found.logits)
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert (stored.names, stored.task, stored.pool) == (("x", "y", "z"), task, pool)
    labels = {"single": torch.zeros(len(x), dtype=torch.long)}.get(task, torch.zeros(len(x), 3))
    assert model(x, mask, labels=labels).loss > 0
    model.save_pretrained(tmp_path / "again")
    assert_same_weights(stored.module, load_head(tmp_path / "again").module)
    load(folder).save_pretrained(tmp_path / "encoder")
    assert load_head(tmp_path / "encoder") is None


@torch.no_grad()
def test_recogniser(tmp_path: Path) -> None:
    encoder, head = make_encoder("speech2", **SPEECH), linear_head(len(SYMBOLS))
    folder = export(tmp_path, encoder, head, **recogniser(SYMBOLS))
    model, (x, mask) = load_with_its_code(folder, "AutoModelForCTC"), batch((2, 900))
    labels = torch.tensor([[5, 6, 5], [5, -100, -100]])
    found = model(x, mask, labels=labels)
    log_probs, padding = Program(encoder, load_head(folder))(x, mask == 0)
    assert_close(log_probs, found.logits.log_softmax(dim=-1), padding)
    lengths, targets = (~padding).sum(dim=1), torch.tensor([3, 1])
    expected = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), labels, lengths, targets, reduction="sum")
    assert_close(expected, found.loss)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert processor.feature_extractor.sampling_rate == 16_000
    clips = [1e-3 * torch.randn(length) for length in (900, 700)]
    values = processor([clip.numpy() for clip in clips], sampling_rate=16_000, padding=True, return_tensors="pt")
    for clip, value in zip(clips, values["input_values"], strict=True):
        assert_close(torch.nn.functional.layer_norm(clip, clip.shape), value[: len(clip)])
        assert not value[len(clip) :].any()
    assert processor.decode([0, 5, 5, 0, 5, 4, 4, 6, 0, 7, 6, 0]) == "AA B'B"
    assert list(load_head(folder).names) == SYMBOLS


@torch.no_grad()
def test_text_has_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.train(["abc abc naïve", "日本語 bc"], vocab_size=270)
    encoder = make_encoder("text2", vocab_size=len(tokenizer))
    folder = export(tmp_path, encoder, assets={"tokenizer.json": tokenizer.to_json()})
    official = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = load(folder)
    found = model(**official(["abc naïve <s>", "bc"], padding=True, return_tensors="pt"))
    assert model.config.vocab_size == len(tokenizer)
    for row, text in enumerate(["abc naïve <s>", "bc"]):
        ids = torch.tensor([tokenizer.sequence(tokenizer.encode(text), max_length=99)])
        assert_close(encoder(ids).tokens[0], found.last_hidden_state[row, : ids.shape[1]])
    official.save_pretrained(tmp_path / "hf")
    for text in (d2v.load(folder).assets["tokenizer.json"], (tmp_path / "hf" / "tokenizer.json").read_text()):
        assert TextTokenizer.from_json(text).fingerprint == tokenizer.fingerprint


@torch.no_grad()
def test_pictures_have_their_processor(tmp_path: Path) -> None:
    assets = {"preprocessor_config.json": json.dumps({"image_mean": [0.2, 0.3, 0.4], "image_std": [0.5, 0.6, 0.7]})}
    folder = export(tmp_path, make_encoder("vision2"), assets=assets)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(torch.zeros(3, 40, 50, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 24)
    assert_close(pixels[0, :, 0, 0], -torch.tensor([0.2 / 0.5, 0.3 / 0.6, 0.4 / 0.7]))
    encoder = d2v.load(folder)
    assert encoder.assets.keys() == {"preprocessor_config.json"}
    assert_close(encoder.embed(pixels), load_with_its_code(folder, "AutoModel")(pixel_values=pixels)[1])


@pytest.mark.parametrize("name", ["pictures", "speech", "text"])
def test_fine_tuning_with_transformers(tmp_path: Path, name: str) -> None:
    """A new head, other dropout and layers left out, with gradient checkpointing; what comes of it goes back to d2v."""
    kind, changes, shape = ENCODERS[name]
    folder = export(tmp_path, make_encoder(kind, **changes))
    x, mask = batch(shape)
    changes = {"num_labels": 5, "hidden_dropout": 0.2, "layerdrop": 0.1, "drop_path_rate": 0.1}
    model = load(folder, "D2vForClassification", **changes).train()
    model.gradient_checkpointing_enable()
    model.freeze_feature_encoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        loss = model(x, mask, labels=torch.arange(len(x))).loss
        loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "tuned")
    encoder = d2v.load(tmp_path / "tuned")
    assert encoder.recipe["trunk"]["dropout"] == 0.2
    assert load_head(tmp_path / "tuned") is None
    again = load(tmp_path / "tuned", "D2vForClassification")
    assert_same_weights(model, again)
    assert not torch.equal(encoder.trunk.blocks[1].mlp[0].weight, d2v.load(folder).trunk.blocks[1].mlp[0].weight)
    with torch.no_grad():
        scores = again.head(encoder.embed(x, padding_mask=None if mask is None else mask == 0))
        assert_close(scores, again(x, mask).logits)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "dtype"), [("pictures", torch.float16), ("speech", torch.bfloat16), ("text", torch.float16)]
)
def test_half_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    kind, changes, shape = ENCODERS[name]
    encoder = make_encoder(kind, **changes)
    model, (x, mask) = load(export(tmp_path, encoder), dtype=dtype), batch(shape)
    found = model(x, mask)
    assert found.last_hidden_state.dtype == dtype
    ours = encoder.embed(x, padding_mask=None if mask is None else mask == 0)
    torch.testing.assert_close(found.pooler_output.float(), ours, atol=0.05, rtol=0.05)
    model.save_pretrained(tmp_path / "again")
    assert d2v.load(tmp_path / "again").trunk.blocks[0].norm1.weight.dtype == torch.float32


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    model = load(export(tmp_path, make_encoder("vision2")))
    with pytest.raises(ValueError, match="give this model its pixel_values, once; it was given 0 inputs"):
        model()
    with pytest.raises(ValueError, match="sides 4 divides"):
        model(torch.randn(1, 3, 16, 18))
    text = make_encoder("text2", alibi=False, max_positions=30, prenet_depth=1)
    model = load(run_export(save(tmp_path / "b.ckpt", text), "hf", tmp_path / "text"))
    with pytest.raises(ValueError, match="31"):
        model(torch.ones(1, 31, dtype=torch.long))


def test_back_to_a_folder_of_d2v(tmp_path: Path) -> None:
    head = linear_head(3)
    folder = export(tmp_path, make_encoder("vision2"), head, **classifier(["x", "y", "z"], head, "mean"))
    with pytest.raises(UserError, match="needs no import"):
        read_official(folder)
    plain = run_export(folder, "safetensors", tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text())
    assert not {"model_type", "auto_map", "architectures"} & config.keys()
    assert not (plain / "modeling_d2v.py").exists()
    assert_same_weights(d2v.load(folder), d2v.load(plain))
    assert_same_weights(load_head(folder).module, load_head(plain).module)
    again = run_export(plain, "hf", tmp_path / "again")
    for name in ("config.json", "modeling_d2v.py", "model.safetensors", "preprocessor_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@torch.no_grad()
def test_teacher(tmp_path: Path) -> None:
    student, teacher = make_encoder("vision2"), make_encoder("vision2")
    for parameter in teacher.parameters():
        parameter.mul_(0.5)
    checkpoint = save(tmp_path / "a.ckpt", student, teacher=teacher)
    assert_same_weights(teacher, d2v.load(run_export(checkpoint, "hf", tmp_path / "hf", weights="teacher")))


def test_every_setting_of_an_encoder_is_known_to_it_or_refused() -> None:
    """A new setting of a front end or of the trunk must be read in modeling_d2v.py, or be among those refused."""
    without_effect = {"random_tokens", "unchanged_tokens", "projection_init", "weight_init", "checkpoint_activations"}
    of_pre_norm, by_its_tensor = {"output_norm", "output_eps"}, {"masked_input"}
    code = CODE.read_text(encoding="utf-8")
    for front in (AudioFrontEnd, SpeechFrontEnd, TextFrontEnd, VisionFrontEnd, Transformer):
        for name in list(inspect.signature(front).parameters):
            known = name in without_effect | of_pre_norm | by_its_tensor | own_class._ONLY.keys() | {"trunk"}
            assert known or f'"{name}"' in code, f"{front.__name__}: {name}"


def test_the_file_needs_torch_and_transformers_alone() -> None:
    imported = set()
    for statement in ast.walk(ast.parse(CODE.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            imported |= {name.name.partition(".")[0] for name in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            imported.add(str(statement.module).partition(".")[0])
    assert imported == {"math", "dataclasses", "typing", "torch", "transformers"}
