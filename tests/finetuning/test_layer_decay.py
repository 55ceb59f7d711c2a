"""Learning rates that fall from the head down to the input, and a head with a rate of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import text_encoder, vision_encoder
from torch import nn
from toy import MelodyModule, make_encoder, make_module, make_trainer

from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.nn.task_heads import ClassifierHead
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.optimizer import layer_decayed_groups

DECAY = 0.65
V1 = {"masked_input": "replace", "positions": "learned", "relative_bias": "shared", "norm_first": True,
      "layer_scale": 0.1, "key_bias": False}  # fmt: skip


class Model(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.student = encoder
        self.head = ClassifierHead(encoder.width, 3, norm=True, dropout=0.0)


def scales(encoder: Encoder, *options: Any) -> tuple[dict[str, float], set[str]]:
    """Factor of each parameter's rate, and the names of those that decay."""
    model = Model(encoder)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found, decaying = {}, set()
    for group in layer_decayed_groups(model, encoder, DECAY, *options):
        for parameter in group["params"]:
            assert names[parameter] not in found, "no parameter is in two groups"
            found[names[parameter]] = group["lr_scale"]
            if "weight_decay" not in group:
                decaying.add(names[parameter])
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return found, decaying


def beit(name: str, depth: int) -> float:
    """BEiT's optim_factory.py and run_class_finetuning.py, for the names that the same tensors have here:
    ``decay ** (depth + 1 - layer)``, where layer is 0, the number of the block from 1, or depth + 1."""
    table = {
        "student.front.feature_extractor.proj": 0,  # patch_embed
        "student.front.cls_token": 0,
        "student.front.positions": 0,  # pos_embed
        "student.front.masked_input": 0,  # mask_token
        "student.front.attention_bias": depth + 1,  # rel_pos_bias
        "student.trunk.output_norm": depth + 1,  # norm
        "head": depth + 1,  # fc_norm, head
        **{f"student.trunk.blocks.{number}.": number + 1 for number in range(depth)},
    }
    (layer,) = (layer for prefix, layer in table.items() if name.startswith(prefix))
    return DECAY ** (depth + 1 - layer)


def test_pictures_have_the_rates_of_beit() -> None:
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=12, num_heads=2, **V1)  # type: ignore[arg-type]
    found, decaying = scales(encoder)
    assert found == pytest.approx({name: beit(name, 12) for name in found})
    assert found["student.front.cls_token"] == pytest.approx(0.65**13)
    assert found["student.trunk.blocks.11.mlp.0.weight"] == pytest.approx(0.65)
    # Of what decays nothing has one dimension; unlike in BEiT the mask token and the table of the bias are spared.
    parameters = dict(Model(encoder).named_parameters())
    assert all(parameters[name].ndim > 1 for name in decaying)
    spared = {"student.front.cls_token", "student.front.masked_input.mask_token", "student.front.positions.table",
              "student.front.positions.cls_table", "student.front.attention_bias.table"}  # fmt: skip
    assert set(parameters) - decaying == {n for n, p in parameters.items() if p.ndim == 1} | spared


def test_what_decays_in_beit() -> None:
    """Nothing of one dimension, no pos_embed and no cls_token; its mask_token has the shape [1, 1, D]."""
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, **V1)  # type: ignore[arg-type]
    _, decaying = scales(encoder, "beit")
    parameters = dict(Model(encoder).named_parameters())
    spared = {"student.front.cls_token", "student.front.positions.table", "student.front.positions.cls_table"}
    spared |= {name for name, p in parameters.items() if p.ndim == 1 and not name.endswith("mask_token")}
    assert set(parameters) - decaying == spared


def test_fairseq_scales_the_blocks_alone_and_lets_everything_decay() -> None:
    """mae_image_classification.py: ``decay ** (blocks + 1 - number)`` for the blocks of prenet and trunk."""
    found, decaying = scales(
        vision_encoder(image_size=16, patch_size=4, width=16, depth=3, prenet_depth=2, num_heads=2), "all", False
    )
    assert decaying == set(found)
    blocks = [f"student.front.prenet.{i}." for i in range(2)] + [f"student.trunk.blocks.{i}." for i in range(3)]
    for number, block in enumerate(blocks, start=1):
        rates = [rate for name, rate in found.items() if name.startswith(block)]
        assert rates == pytest.approx([0.65 ** (6 - number)] * len(rates))
    assert {rate for name, rate in found.items() if not name.startswith(tuple(blocks))} == {1.0}


def test_prenet_blocks_are_blocks() -> None:
    found, _ = scales(vision_encoder(image_size=16, patch_size=4, width=16, depth=2, prenet_depth=2, num_heads=2))
    first, second = (found[f"student.{stack}.0.norm1.weight"] for stack in ("front.prenet", "trunk.blocks"))
    assert (first, second) == pytest.approx((0.65**4, 0.65**2))
    assert found["student.front.input_norm.weight"] == pytest.approx(0.65**5)
    assert "student.front.positions.table" not in found, "it is not trained"


@pytest.mark.parametrize(
    ("encoder", "lowest", "highest"),
    [
        (make_encoder(alibi=True), "front.positions.layers.0.weight", "front.attention_bias.scale"),
        (text_encoder(vocab_size=20, width=16, depth=2, num_heads=2), "front.feature_extractor.embedding.weight", None),
    ],
)
def test_sound_and_text_have_such_rates_too(encoder: Encoder, lowest: str, highest: str | None) -> None:
    found, _ = scales(encoder)
    assert found[f"student.{lowest}"] == min(found.values()) == pytest.approx(0.65**3)
    assert found["student.trunk.blocks.1.norm1.weight"] == pytest.approx(0.65)
    assert found["head.proj.weight"] == max(found.values()) == 1
    assert highest is None or found[f"student.{highest}"] == 1


def test_steps_and_resumes(tmp_path: Path) -> None:
    """The first group has the rate that was asked for; a resume takes the config's rates, in the same groups only."""

    def fit(steps: int, lr: float = 1e-3, decay: float = 0.5, path: Path | None = None) -> Any:
        trainer = make_trainer(tmp_path, max_steps=steps, enable_checkpointing=True,
                               callbacks=[RunCheckpoint(dirpath=str(tmp_path / f"to-{steps}"))])  # fmt: skip
        module = make_module("classifier", lr=lr, layer_decay=decay)
        trainer.fit(module, datamodule=MelodyModule(labels="class"), ckpt_path=path)
        return trainer

    def peaks(trainer: Any) -> list[float]:
        return [group["initial_lr"] for group in trainer.optimizers[0].param_groups]

    first = fit(3)
    assert peaks(first)[0] == 1e-3
    assert peaks(first)[-1] == pytest.approx(1e-3 / 8)
    assert len(set(peaks(first))) == 4, "head, two blocks and what lies before them"
    file = tmp_path / "to-3" / "last.ckpt"
    assert peaks(fit(4, lr=2e-3, decay=0.25, path=file))[-1] == pytest.approx(2e-3 / 64)
    with pytest.raises(UserError, match=r"--resume: the optimizer has other groups .* model\.layer_decay"):
        fit(5, decay=1.0, path=file)


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_senseless_factor_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.layer_decay is {value}"):
        make_module("classifier", layer_decay=value)


def test_what_is_frozen_is_in_no_group() -> None:
    module = make_module("classifier", layer_decay=DECAY, freeze=["trunk.blocks.0"])
    torch.manual_seed(0)
    module.set_names(("a", "b"))
    grouped = {id(parameter) for group in module.parameter_groups() for parameter in group["params"]}
    assert not grouped & {id(p) for p in module.student.trunk.blocks[0].parameters()}
    assert grouped & {id(p) for p in module.student.trunk.blocks[1].parameters()}


def test_a_head_with_a_rate_of_its_own(tmp_path: Path) -> None:
    def fit(steps: int, scale: float, path: Path | None = None) -> Any:
        trainer = make_trainer(tmp_path, max_steps=steps, enable_checkpointing=True,
                               callbacks=[RunCheckpoint(dirpath=str(tmp_path / f"to-{steps}"))])  # fmt: skip
        module = make_module("ctc", lr=1e-3, head_lr_scale=scale)
        trainer.fit(module, datamodule=MelodyModule(labels="transcript"), ckpt_path=path)
        return module, trainer.optimizers[0].param_groups

    module, groups = fit(2, 10.0)
    names = {parameter: name for name, parameter in module.named_parameters()}
    rates = {names[p]: group["initial_lr"] for group in groups for p in group["params"]}
    assert set(rates) == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(rates), "no parameter is in two groups"
    assert {name for name, rate in rates.items() if rate != 1e-3} == {
        "method.head.proj.weight",
        "method.head.proj.bias",
    }
    assert rates["method.head.proj.weight"] == rates["method.head.proj.bias"] == pytest.approx(1e-2)
    left_alone = {names[p] for group in module.parameter_groups() if "weight_decay" in group for p in group["params"]}
    assert "method.head.proj.bias" in left_alone
    assert "method.head.proj.weight" not in left_alone
    assert groups[0]["initial_lr"] == 1e-3, "the rate that is logged is the one that was asked for"

    file = tmp_path / "to-2" / "last.ckpt"
    assert fit(3, 5.0, file)[1][-1]["initial_lr"] == pytest.approx(5e-3)
    with pytest.raises(UserError, match=r"--resume: the optimizer has other groups .* model\.head_lr_scale"):
        fit(4, 1.0, file)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_head_without_a_rate_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.head_lr_scale is {value}"):
        make_module("ctc", head_lr_scale=value)
