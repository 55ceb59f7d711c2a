"""Against the public code of EAT, a data2vec 2.0 on spectrograms: features, losses, gradients, masks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoders import data2vec, make, step
from goldens import (
    TEACHER,
    FixedMasking,
    all_close,
    close,
    needs_goldens,
    read_golden,
)
from torch import Tensor

from d2v.data.filter_banks import filter_banks
from d2v.errors import UserError
from d2v.finetuning.classifier import Classifier
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.model.data2vec import Data2Vec
from d2v.model.heads import ConvDecoder2d
from d2v.model.losses import ClsLoss, RegressionLoss
from d2v.model.masking import InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.training.schedules import WarmupCosine
from d2v.types import Batch

pytestmark = needs_goldens

_NAMES = (
    ("modality_encoders.IMAGE.decoder.proj.", "task.head.proj."),
    ("modality_encoders.IMAGE.extra_tokens", "student.front.cls_token"),
    ("modality_encoders.IMAGE.local_encoder.", "student.front.feature_extractor."),
    ("modality_encoders.IMAGE.fixed_positional_encoder.positions", "student.front.positions.table"),
    ("modality_encoders.IMAGE.context_encoder.norm.", "student.front.input_norm."),
    ("attn.", "attention."),
    ("mlp.fc1.", "mlp.0."),
    ("mlp.fc2.", "mlp.2."),
)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return read_golden("descendants/eat_base_like")


def in_our_names(state: dict[str, Any]) -> dict[str, Tensor]:
    weights = {}
    for key, value in state.items():
        name = key
        for theirs, ours in _NAMES:
            name = name.replace(theirs, ours)
        if key.startswith("modality_encoders.IMAGE.decoder.blocks."):
            _, _, _, _, layer, _, part = key.split(".")
            name = f"task.head.layers.{layer}.{part}"
        elif key.startswith("blocks."):
            name = f"student.trunk.{name}"
        weights[name] = value[0] if name.endswith((".cls_token", ".table")) else value
    return weights


@pytest.fixture
def method(golden: dict[str, Any]) -> Data2Vec:
    encoder = make(AudioFrontEnd, max_frames=256, width=32, depth=3, num_heads=4, eps=1e-6)
    masks = FixedMasking(golden["inputs"]["precomputed_mask"])
    head = lambda width: ConvDecoder2d(width, 32, 3, 3, 16, mask_noise=0.0)  # noqa: E731
    targets = TopKTargets(3, mean_norm="layer")
    method = data2vec(encoder, masks, targets, head, RegressionLoss(), ClsLoss(1.0, rows=4), num_masks=2)
    state = dict(golden["state_dict"])
    teacher = {}
    for name, value in in_our_names(state.pop("_ema")).items():
        teacher[name.replace("student.", TEACHER, 1)] = value
    close(encoder.front.positions.table, state["modality_encoders.IMAGE.fixed_positional_encoder.positions"][0])
    method.load_state_dict({**in_our_names(state), **teacher})
    return method


def batch_of(golden: dict[str, Any]) -> Batch:
    source = golden["inputs"]["source"]
    ids = torch.arange(len(source))
    return Batch(source, ids, torch.zeros_like(ids))


@pytest.mark.parametrize("name", ["eat_base_like", "eat_finetuned_like"])
def test_filter_banks(name: str) -> None:
    official = read_golden(f"descendants/{name}")["front_end"]
    for number, wave in enumerate(official["waveforms_int16"]):
        frames = filter_banks(wave / 32768)
        assert len(frames) == official["num_frames"][number]
        spectrogram = F.pad(frames, (0, 0, 0, official["target_length"]))[: official["target_length"]]
        normalised = (spectrogram - official["norm_mean"]) / (2 * official["norm_std"])
        torch.testing.assert_close(normalised, official["normalised"][number, 0], atol=1e-4, rtol=0)


def test_features_layers_and_other_lengths(golden: dict[str, Any], method: Data2Vec) -> None:
    official, source = golden["features_only"], golden["inputs"]["source"]
    with torch.no_grad():
        output = method.student(source)
        close(output.tokens, official["x"])
        close(output.cls, official["x_with_extra_tokens"][:, :1])
        all_close(output.ffn_outputs, [layer[:, 1:] for layer in official["layer_results"]])

        twice = torch.cat([source, source], dim=2)
        lengths = {"first_80_frames": source[:, :, :80], "repeated_and_cut_to_256_frames": twice[:, :, :256]}
        for name, other in lengths.items():
            output = method.student(other)
            close(torch.cat([output.cls, output.tokens], dim=1), official["other_lengths"][name])
        with pytest.raises(UserError, match="24 x 8 patches, and the encoder has positions for 16 x 8"):
            method.student(twice)


def test_teacher_targets_predictions_and_losses(golden: dict[str, Any], method: Data2Vec) -> None:
    captures, batch = golden["captures"], batch_of(golden)
    teacher = method.teacher(batch, method.student.extract(batch.inputs))
    all_close(teacher.ffn_outputs, captures["teacher_layers"])
    close(method.task.targets(teacher), captures["targets_all"])
    output = step(method, batch)
    close(output.predictions.flatten(0, 1), captures["pred_masked"])
    close(output.loss, torch.tensor(golden["loss"]))
    close(output.cls_loss, torch.tensor(golden["losses"]["cls"] / golden["sample_size"]))


def test_every_gradient(golden: dict[str, Any], method: Data2Vec) -> None:
    step(method, batch_of(golden)).loss.backward()
    ours = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    official = in_our_names(golden["grads"])
    assert ours.keys() == official.keys()
    for name, grad in ours.items():
        assert (grad - official[name]).norm() <= 1e-4 * official[name].norm(), name


def test_a_fine_tuned_classifier() -> None:
    """Features, logits, loss and gradients; fairseq divides the loss by the number of positive labels."""
    golden = read_golden("descendants/eat_finetuned_like")
    state = {name.removeprefix("model."): value for name, value in golden["state_dict"].items()}
    encoder = make(AudioFrontEnd, max_frames=256, width=32, depth=2, num_heads=4, eps=1e-6)
    module = Classifier(encoder=encoder, task="multi", pool="cls", optimizer=torch.optim.AdamW, schedule=WarmupCosine())
    module.set_names(module.names_in_data(SimpleNamespace(class_names=tuple("abcdefg"))))
    heads = {"fc_norm.weight": "norm.weight", "fc_norm.bias": "norm.bias", "head.weight": "proj.weight"}
    heads["head.bias"] = "proj.bias"
    module.head.load_state_dict({ours: state.pop(theirs) for theirs, ours in heads.items()})
    weights = in_our_names(state)
    encoder.load_state_dict({name.removeprefix("student."): value for name, value in weights.items()})

    source, labels = golden["inputs"]["source"], golden["inputs"]["label"]
    module.eval()
    output = encoder(source)
    close(output.tokens, golden["features_only"]["x"])
    close(output.cls, golden["features_only"]["x_with_extra_tokens"][:, :1])
    all_close(output.ffn_outputs, [layer[:, 1:] for layer in golden["features_only"]["layer_results"]])
    ids = torch.arange(2)
    batch = Batch(source, ids, torch.zeros_like(ids), labels)
    close(module.head(output.cls[:, 0]), golden["logits"])
    loss = module.loss(batch) * labels.numel() / golden["sample_size"]
    close(loss, torch.tensor(golden["loss"]))
    loss.backward()
    ours = dict(module.named_parameters())
    official = {name.removeprefix("model."): value for name, value in golden["grads"].items()}
    for theirs, name in heads.items():
        official[f"head.{name}"] = official.pop(theirs)
    for name, grad in in_our_names(official).items():
        found = ours[f"method.{name}"].grad
        assert (found - grad).norm() <= 1e-4 * grad.norm(), name


def test_masks_fall_where_those_of_the_public_code_do(golden: dict[str, Any]) -> None:
    official = golden["mask_statistics"]
    masks = InverseBlockMasking(0.8, block_size=5, adjust=0.07).sample(torch.arange(2000), (64, 8))
    assert (masks.sum(dim=1) == official["masked_per_row"]).all()
    share, theirs = masks.float().mean(dim=0).view(64, 8), official["masked_fraction_by_position"]
    deviation = (theirs * (1 - theirs) * (1 / 2000 + 1 / official["samples"])).sqrt()
    assert ((share - theirs) / deviation).abs().max() < 5  # of 512 positions
    assert ((share - theirs) / deviation).square().mean() < 1.3  # 1 is expected
