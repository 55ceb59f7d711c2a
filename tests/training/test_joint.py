"""Several kinds of input on one trunk: what is shared, and that each stream is that of a run of its own."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from encoders import vision_encoder
from tiny_runs import PictureModule, largest_difference, make_module, make_trainer, weights
from torch import Tensor

import d2v
from d2v.checkpoints.load import init_weights
from d2v.data.joint import JointDataModule, JointLoader
from d2v.errors import UserError
from d2v.evaluation.frozen import eval_mode
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.data2vec import Data2Vec
from d2v.model.heads import ConvDecoder2d
from d2v.model.joint_data2vec import JointData2Vec, Medium
from d2v.model.losses import RegressionLoss
from d2v.model.masking import InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.nn.transformer import Transformer
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.joint_pretraining import JointPretraining
from d2v.training.schedules import EMADecay, WarmupCosine
from d2v.types import Batch


def medium(prenet_depth: int = 1, masked: float = 0.7, **changes: Any) -> Medium:
    settings: dict[str, Any] = {
        "front": lambda trunk: VisionFrontEnd(trunk, image_size=16, patch_size=4, prenet_depth=prenet_depth),
        "masking": InverseBlockMasking(masked, 2),
        "head": lambda width: ConvDecoder2d(width, 16, 2, 3, 2, mask_noise=0.1),
        "loss": RegressionLoss(),
        "targets": TopKTargets(2, "ffn", "instance", "layer"),
        "num_masks": 2,
    }
    return Medium(**{**settings, **changes})


def joint(media: dict[str, Medium] | None = None, **changes: Any) -> JointPretraining:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "trunk": Transformer(width=16, depth=2, num_heads=2, dropout=0.1, layer_drop=0.2),
        "media": media or {"coarse": medium(), "fine": medium(2, 0.5, weight=0.5)},
        "ema": EMADecay(0.9, 0.99, 30),
        "optimizer": lambda groups: torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.05),
        "schedule": WarmupCosine(5),
        "seed": 1,
    }
    return JointPretraining(**{**settings, **changes})


def data(**changes: Any) -> JointDataModule:
    """Sets and batches of different sizes."""
    return JointDataModule({"coarse": PictureModule(21, 4, **changes), "fine": PictureModule(10, 3, **changes)}, seed=3)


def step(method: Data2Vec, batches: dict[str, Batch]) -> Tensor:
    torch.manual_seed(1)
    outputs = method(batches, 5)
    return sum(method.loss_weight(name) * output.loss for name, output in outputs.items())  # type: ignore[return-value]


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(pixels, torch.arange(3), torch.zeros(3, dtype=torch.int64))


def test_one_medium_alone_is_data2vec() -> None:
    single = make_module(random=True, cls_loss=None).method
    alone = single.student
    shared = Medium(
        lambda trunk: copy.deepcopy(alone.front), masking=single.task.masking, targets=single.task.targets,
        head=lambda width: copy.deepcopy(single.task.head), loss=single.task.loss, num_masks=2,
    )  # fmt: skip
    method = JointData2Vec(copy.deepcopy(alone.trunk), {"only": shared})
    assert torch.equal(step(single, {"": batch()}), step(method, {"only": batch()}))
    for made in (single, method):
        made.train()
    losses = [step(single, {"": batch()}), step(method, {"only": batch()})]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    found = dict(method.encoders["only"].trunk.named_parameters())
    for name, parameter in alone.trunk.named_parameters():
        assert torch.equal(parameter.grad, found[name].grad), name
    for made in (single, method):
        with torch.no_grad():
            for parameter in made.student.parameters():
                parameter.add_(0.1)
        made.move_teacher(0.5)
    moved = dict(method.teacher.encoder.by_name["only"].trunk.named_parameters())
    for name, parameter in single.teacher.encoder.trunk.named_parameters():
        assert torch.equal(parameter, moved[name]), name


def test_the_trunk_is_there_once() -> None:
    module = joint()
    method = module.method
    trunks = [name for name in method.state_dict() if "trunk.blocks.0.mlp.0.weight" in name]
    assert trunks == ["student.trunk.blocks.0.mlp.0.weight", "teacher.encoder.trunk.blocks.0.mlp.0.weight"]
    for encoders in (method.encoders, method.teacher.encoder.by_name):
        assert encoders["coarse"].trunk is encoders["fine"].trunk
    assert method.teacher.encoder.trunk is not method.student.trunk
    trained = [parameter for group in module.parameter_groups() for parameter in group["params"]]
    of_method = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert len(set(trained)) == len(trained) == len(of_method)
    # A probe of one encoder turns dropout off for as long as it takes.
    module.train()
    method.encoders["fine"].eval()
    assert not any(part.training for part in method.student.trunk.modules())
    method.encoders["fine"].train()
    assert all(part.training for part in method.student.trunk.modules())
    with eval_mode(method.encoders["fine"]):
        assert not any(part.training for part in method.student.trunk.modules())
    assert all(part.training for part in method.student.trunk.modules())
    again = copy.deepcopy(method)
    assert again.encoders["fine"].trunk is again.student.trunk is not method.student.trunk


def test_what_a_medium_changes_is_its_own() -> None:
    """Front ends and heads get gradients of their own loss alone, the trunk of all; weights scale them."""
    method = joint().method
    step(method, {"coarse": batch()}).backward()
    fine = [*method.encoders["fine"].front.parameters(), *method.tasks["fine"].parameters()]
    assert all(parameter.grad is None for parameter in fine)
    of_coarse = [parameter.grad.clone() for parameter in method.student.trunk.parameters()]
    method.zero_grad()
    step(method, {"fine": batch(1)}).backward()
    of_fine = [parameter.grad.clone() for parameter in method.student.trunk.parameters()]
    silent = joint({"coarse": medium(), "fine": medium(2, 0.5, weight=0.0)}).method
    silent.eval(), method.eval()
    method.zero_grad()
    step(silent, {"coarse": batch(), "fine": batch(1)}).backward()
    step(method, {"coarse": batch()}).backward()
    for one, other in zip(silent.student.trunk.parameters(), method.student.trunk.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert any(not torch.equal(*pair) for pair in zip(of_coarse, of_fine, strict=True))


def orders(module: L.LightningDataModule, workers: int, steps: int) -> list[dict[str, list[tuple[int, int]]]]:
    for part in module.parts.values():
        part.num_workers = workers
    loader = module.train_dataloader()
    found: list[Any] = []
    while len(found) < steps:
        for batches in loader:
            read = {}
            for name, part in batches.items():
                read[name] = list(zip(part.epochs.tolist(), part.sample_ids.tolist(), strict=True))
            found.append(read)
        loader.set_epoch(1)
    return found[:steps]


def test_streams_are_those_of_single_runs_whatever_loads_them() -> None:
    """Also over the ends of the data: 21 and 10 samples in batches of 4 and 3, five of which are an epoch."""
    loader = data().train_dataloader()
    assert isinstance(loader, JointLoader)
    assert len(loader) == 5
    found = orders(data(), 0, 5)
    assert found == orders(data(), 1, 5)
    for name, num_samples, size in (("coarse", 21, 4), ("fine", 10, 3)):
        single = PictureModule(num_samples, size)
        stream = single.stream(num_samples, size).endless()
        assert [read[name] for read in found] == [next(stream) for _ in range(5)]
    assert max(epoch for epoch, _ in found[-1]["fine"]) == 1


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path: Path, stop: int) -> None:
    def fit(folder: str, **more: Any) -> dict[str, Tensor]:
        module = joint()
        saving = RunCheckpoint(every_n_train_steps=stop, keep=-1, dirpath=str(tmp_path / folder))
        trainer = make_trainer(tmp_path, max_steps=9, callbacks=[saving], enable_checkpointing=True)
        trainer.fit(module, datamodule=data(), **more)
        return weights(module)

    whole = fit("whole")
    resumed = fit("resumed", ckpt_path=str(tmp_path / "whole" / f"step-{stop}.ckpt"))
    assert largest_difference(whole, resumed) == 0


def test_global_batches_must_agree() -> None:
    module = data()
    module.parts["coarse"].global_batch_size, module.parts["fine"].global_batch_size = 8, 12
    with pytest.raises(UserError, match=r"2 for coarse, 4 for fine.*data\.parts\.NAME\.batch_size"):
        make_trainer(".").fit(joint(), datamodule=module)
    module = data()
    module.parts["coarse"].global_batch_size = 7
    with pytest.raises(UserError, match=r"data\.parts\.coarse\.global_batch_size 7 cannot be met"):
        make_trainer(".").fit(joint(), datamodule=module)
    with pytest.raises(UserError, match=r"coarse, fine.*sound"):
        make_trainer(".").fit(joint({"sound": medium()}), datamodule=data())


def saved(module: L.LightningModule, folder: Path, data: L.LightningDataModule) -> Path:
    saving = RunCheckpoint(dirpath=str(folder))
    make_trainer(folder, max_steps=2, callbacks=[saving], enable_checkpointing=True).fit(module, datamodule=data)
    return folder / "last.ckpt"


def test_starts_from_others(tmp_path: Path) -> None:
    """A joint model, a single one for all or for a front end, and a single model from a joint one."""
    both = saved(joint(), tmp_path / "both", data())
    of_both = torch.load(both, weights_only=True)["state_dict"]

    more = joint({"coarse": medium(), "fine": medium(2), "third": medium(0)}, init_from=str(both))
    for name, value in more.method.state_dict().items():
        if ".third." not in name:
            assert torch.equal(value, of_both[f"method.{name}"]), name

    encoder = d2v.load(both, modality="fine")
    method = Data2Vec(encoder, make_module(cls_loss=None).method.task)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.zero_()
    assert init_weights(joint({"fine": medium(2)}).method, both) == []
    only_of_its_kind = saved(joint({"any": medium(2)}), tmp_path / "one", JointDataModule({"any": PictureModule()}))
    assert init_weights(method, only_of_its_kind) == []
    loaded = d2v.load(only_of_its_kind).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in method.student.state_dict().items())
    with pytest.raises(UserError, match=r"has other encoders than the method: coarse \(VisionFrontEnd\), fine"):
        init_weights(method, both)


def test_a_front_end_of_one_and_the_trunk_of_another(tmp_path: Path) -> None:
    alone = vision_encoder(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, prenet_depth=1)
    single = saved(make_module(cls_loss=None, student=alone), tmp_path / "single", PictureModule())
    before = joint({"coarse": medium(), "fine": medium(1)}).method.state_dict()
    module = joint({"coarse": medium(), "fine": medium(1, init_from=str(single))})
    stored = torch.load(single, weights_only=True)["state_dict"]
    for name, value in module.method.state_dict().items():
        kept = name.replace(".fine.", ".") if ".fine." in name else None
        if kept is None:
            assert torch.equal(value, before[name]), name
        elif f"method.{kept}" in stored:
            assert torch.equal(value, stored[f"method.{kept}"]), name


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """The first medium fits and the second does not."""
    stored = joint()
    stored.method.encoders["coarse"].assets = {"words.json": "theirs"}
    path = saved(stored, tmp_path, data())
    other = medium(front=lambda trunk: VisionFrontEnd(trunk, image_size=16, patch_size=8, prenet_depth=2))
    method = joint({"coarse": medium(), "fine": other}).method
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(UserError, match="the weights do not fit the student's front"):
        init_weights(method, path)
    assert method.encoders["coarse"].assets == {}
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: joint({"trunk": medium()}), "'trunk' cannot be the name"),
        (lambda: joint({"a b": medium()}), "'a b' cannot be the name"),
        (lambda: joint({"keys": medium()}), "'keys' cannot be the name"),
        (lambda: joint(init_from="nowhere"), "^model.init_from nowhere: no such file"),
        (lambda: joint({"a": medium(init_from="nowhere")}), "^model.media.a.init_from nowhere: no such file"),
        (lambda: medium(weight=-1.0), "weight must be 0 or more"),
        (lambda: medium(lr_scale=0.0), "model.freeze keeps"),
        (lambda: joint({"fine": medium(targets=TopKTargets(3))}), r"media\.fine: targets\.top_k is 3"),
        (lambda: joint(trunk=Transformer(16, 2, 2, drop_path=0.1)), "same prenet_depth"),
        (lambda: joint(freeze=["sound"]), "no part 'sound'; it has trunk.blocks"),
    ],
)
def test_refuses(change: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        change()


def test_frozen_parts_and_rates_of_their_own(tmp_path: Path) -> None:
    module = joint({"coarse": medium(), "fine": medium(2, 0.5, lr_scale=0.1)}, freeze=["coarse", "trunk"])
    groups = module.parameter_groups()
    assert [group.get("lr_scale", 1) for group in groups] == [1, 1, 0.1, 0.1, 0.1, 0.1]
    before = weights(module)
    make_trainer(tmp_path, max_steps=3).fit(module, datamodule=data())
    for name, value in weights(module).items():
        frozen = ".trunk." in name or (".coarse.front." in name)
        assert torch.equal(value, before[name]) == (frozen or name.endswith("positions.table")), name
