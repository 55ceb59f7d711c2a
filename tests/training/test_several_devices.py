"""Several devices that share a training: DDP as we set it, and FSDP2. Two gloo processes on the CPU.

Run as a script it is both of them, forked from one that has imported everything: imports take longer than the runs.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from tiny_runs import PictureModule, largest_difference, make_module, make_trainer

import d2v
from d2v.data.joint import JointDataModule
from d2v.errors import UserError
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.heads import ConvDecoder2d
from d2v.model.joint_data2vec import Medium
from d2v.model.losses import RegressionLoss
from d2v.model.masking import InverseBlockMasking
from d2v.model.randomness import combine_keys
from d2v.model.targets import TopKTargets
from d2v.nn.transformer import Transformer
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback
from d2v.training.joint_pretraining import JointPretraining
from d2v.training.module import Data2VecModule, Pretraining
from d2v.training.schedules import EMADecay, WarmupCosine
from d2v.training.several_devices import FullySharded, suit_ddp

STEPS, HALF = 4, 2


class Losses(L.Callback):
    def __init__(self) -> None:
        self.values: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)


def joint_module(freeze: tuple[str, ...]) -> JointPretraining:
    """Two media with everything random, one of which counts for nothing."""
    torch.manual_seed(0)
    media = {}
    for name, weight in (("counts", 1.0), ("silent", 0.0)):
        media[name] = Medium(
            lambda trunk: VisionFrontEnd(trunk, image_size=16, patch_size=4, prenet_depth=1),
            weight,
            masking=InverseBlockMasking(0.7, 2),
            head=lambda width: ConvDecoder2d(width, 16, 2, 3, 2, mask_noise=0.1),
            loss=RegressionLoss(),
            targets=TopKTargets(2, "ffn", "instance", "layer"),
        )
    return JointPretraining(
        Transformer(16, 2, 2, dropout=0.1), media, EMADecay(0.9, 0.99, 30),
        lambda groups: torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.05), WarmupCosine(2), freeze, seed=1,
    )  # fmt: skip


def module(layer_drop: float = 0.0, media: bool = False, freeze: tuple[str, ...] = ()) -> Data2VecModule:
    """What a micro-batch draws depends on its place in the step alone, however many devices there are."""

    def seed_step(self: Pretraining) -> None:
        step, trainer = self.trainer.global_step, self.trainer
        self._micro_batch = self._micro_batch + 1 if step == self._seeded_step else 0
        self._seeded_step = step
        key = combine_keys(step, self._micro_batch * trainer.world_size + self.global_rank)
        torch.manual_seed(int(key) & (2**63 - 1))

    made = joint_module(freeze) if media else make_module("2.0", random=True)
    for encoder in made.encoders.values():
        for stack in (encoder.trunk.blocks, encoder.front.prenet):
            stack.layer_drop = layer_drop
    made.seed_step = seed_step.__get__(made)  # type: ignore[method-assign]
    return made


def fit(folder: Path, name: str, world_size: int, accumulated: int, strategy: Any, **changes: Any) -> list[float]:
    losses = Losses()
    model = {key: changes.pop(key) for key in ("layer_drop", "media", "freeze") if key in changes}
    saving = RunCheckpoint(every_n_train_steps=HALF, keep=-1, dirpath=str(folder / name))
    trainer = make_trainer(
        folder, devices=world_size, strategy=strategy, max_steps=STEPS, callbacks=[saving, losses],
        enable_checkpointing=True, limit_val_batches=1, check_val_every_n_epoch=None,
        val_check_interval=2 * accumulated, precision=changes.pop("precision", "32-true"),
    )  # fmt: skip
    data: Any = PictureModule(num_samples=50, batch_size=2, global_batch_size=2 * world_size * accumulated)
    if model.get("media"):
        other = PictureModule(num_samples=9, batch_size=1, global_batch_size=world_size * accumulated)
        data = JointDataModule({"counts": data, "silent": other})
    trainer.fit(module(**model), datamodule=data, **changes)
    torch.save(losses.values, folder / f"{name}.losses.{trainer.global_rank}")
    return losses.values


def run_two_processes(folder: Path, port: str) -> None:
    rank = int(os.fork() == 0)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), GROUP_RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test",
    )  # fmt: skip
    fit(folder, "ddp", 2, 2, "ddp", layer_drop=0.4)
    fit(folder, "static", 2, 1, "ddp", layer_drop=0.4)
    fit(folder, "joint", 2, 1, "ddp", layer_drop=0.4, media=True)
    resumed = str(folder / "joint" / f"step-{HALF}.ckpt")
    fit(folder, "joint_resumed", 2, 1, "ddp", layer_drop=0.4, media=True, ckpt_path=resumed)
    fit(folder, "frozen", 2, 1, "ddp", layer_drop=0.4, media=True, freeze=("trunk",))
    fit(folder, "shared", 2, 1, FullySharded(), media=True)
    fit(folder, "sharded", 2, 2, FullySharded())
    fit(folder, "resumed", 2, 2, FullySharded(), ckpt_path=str(folder / "ddp" / f"step-{HALF}.ckpt"))
    fit(folder, "bf16", 2, 2, FullySharded(), precision="bf16-mixed")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, __file__, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def losses_of(folder: Path, name: str) -> list[float]:
    """In the order of the micro-batches: the devices take turns."""
    ranks = [torch.load(folder / f"{name}.losses.{rank}") for rank in range(2)]
    return [loss for both in zip(*ranks, strict=True) for loss in both]


def checkpoint(folder: Path, name: str, step: int = STEPS) -> dict[str, Any]:
    return torch.load(folder / name / f"step-{step}.ckpt", weights_only=True)


def require_equal(one: dict[str, Any], other: dict[str, Any], atol: float = 1e-6) -> None:
    assert one.keys() == other.keys()
    assert largest_difference(one["state_dict"], other["state_dict"]) < atol
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        assert a["state"].keys() == b["state"].keys()
        for number, values in a["state"].items():
            torch.testing.assert_close(dict(values), dict(b["state"][number]), rtol=1e-3, atol=atol)
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert one["d2v"]["encoders"] == other["d2v"]["encoders"]


@pytest.mark.parametrize(("name", "accumulated"), [("ddp", 2), ("static", 1)])
def test_devices_that_drop_different_blocks_equal_one_that_accumulates(
    tmp_path: Path, two_processes: Path, name: str, accumulated: int
) -> None:
    """LayerDrop, bucket views, and a static graph (without accumulation) or gradients that are not shared at first."""
    alone = fit(tmp_path, "alone", 1, 2 * accumulated, "auto", layer_drop=0.4)
    torch.testing.assert_close(losses_of(two_processes, name), alone, rtol=1e-5, atol=1e-6)
    require_equal(checkpoint(two_processes, name), checkpoint(tmp_path, "alone"), 1e-5)


@pytest.mark.parametrize(
    ("name", "freeze", "layer_drop"), [("joint", (), 0.4), ("frozen", ("trunk",), 0.4), ("shared", (), 0.0)]
)
def test_two_devices_train_several_media_as_one_does(
    tmp_path: Path, two_processes: Path, name: str, freeze: tuple[str, ...], layer_drop: float
) -> None:
    """Without a search for unused parameters, though one medium weighs nothing, and the trunk may be frozen."""
    alone = fit(tmp_path, "alone", 1, 2, "auto", layer_drop=layer_drop, media=True, freeze=freeze)
    torch.testing.assert_close(losses_of(two_processes, name), alone, rtol=1e-5, atol=1e-6)
    require_equal(checkpoint(two_processes, name), checkpoint(tmp_path, "alone"), 1e-5)


def test_two_devices_go_on_with_several_media_bit_for_bit(two_processes: Path) -> None:
    require_equal(checkpoint(two_processes, "joint_resumed"), checkpoint(two_processes, "joint"), atol=1e-30)


def test_what_ddp_is_told() -> None:
    told = []
    stated = {"find_unused_parameters": True, "gradient_as_bucket_view": False}
    for accumulated, given in ((1, {}), (2, {}), (1, stated)):
        trainer = L.Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(**given), logger=False)
        trainer.accumulate_grad_batches = accumulated
        suit_ddp(trainer)
        told.append(trainer.strategy._ddp_kwargs)
    assert told[0] == {"gradient_as_bucket_view": True, "static_graph": True}
    assert told[1] == {"gradient_as_bucket_view": True, "static_graph": False}
    assert told[2] == {"find_unused_parameters": True, "gradient_as_bucket_view": False, "static_graph": False}


def test_shared_out_weights_train_as_whole_ones(tmp_path: Path, two_processes: Path) -> None:
    alone = fit(tmp_path, "alone", 1, 4, "auto")
    torch.testing.assert_close(losses_of(two_processes, "sharded"), alone, rtol=1e-5, atol=1e-6)
    for step in (HALF, STEPS):
        require_equal(checkpoint(two_processes, "sharded", step), checkpoint(tmp_path, "alone", step))
    rounded = fit(tmp_path, "rounded", 1, 4, "auto", precision="bf16-mixed")
    torch.testing.assert_close(losses_of(two_processes, "bf16"), rounded, rtol=1e-3, atol=0)
    assert rounded != alone


def test_any_number_of_devices_reads_a_checkpoint(tmp_path: Path, two_processes: Path) -> None:
    """One goes on with what two have shared out, and the other way round, where DDP had dropped blocks."""
    stored = two_processes / "sharded" / f"step-{HALF}.ckpt"
    encoder = d2v.load(stored)
    for name, value in checkpoint(two_processes, "sharded", HALF)["state_dict"].items():
        if name.startswith("method.student."):
            assert torch.equal(encoder.get_parameter(name.removeprefix("method.student.")), value)
    one = fit(tmp_path, "one", 1, 4, "auto", ckpt_path=str(stored))
    assert len(one) == 4 * (STEPS - HALF)
    require_equal(checkpoint(tmp_path, "one"), checkpoint(two_processes, "sharded"))
    from_ddp = str(two_processes / "ddp" / f"step-{HALF}.ckpt")
    again = fit(tmp_path, "again", 1, 4, "auto", ckpt_path=from_ddp)
    torch.testing.assert_close(losses_of(two_processes, "resumed"), again, rtol=1e-5, atol=1e-6)
    require_equal(checkpoint(two_processes, "resumed"), checkpoint(tmp_path, "again"))


def test_what_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    from d2v.training.several_devices import _require_shardable

    trainer = make_trainer(tmp_path)
    _require_shardable(trainer, module().method)
    with pytest.raises(UserError, match=r"FullySharded: .*the same blocks; set layer_drop of the trunk to 0"):
        _require_shardable(trainer, module(layer_drop=0.1).method)
    trainer.precision_plugin.precision = "16-mixed"
    with pytest.raises(UserError, match=r"FullySharded: the scale of fp16 .* trainer\.precision to bf16-mixed"):
        _require_shardable(trainer, module().method)
    trainer = make_trainer(tmp_path, devices=2, strategy=FullySharded())
    trainer.strategy._lightning_module = module()  # which nobody has shared out: a fine-tuning
    with pytest.raises(UserError, match="FullySharded: it is for pretraining"):
        trainer.strategy.setup(trainer)
    with pytest.raises(UserError, match=r"ProbeCallback: .*`d2v probe` read the run's checkpoints"):
        ProbeCallback(1).setup(trainer, module(), "fit")


if __name__ == "__main__":
    torch.set_num_threads(1)
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = str(free.getsockname()[1])
    run_two_processes(Path(sys.argv[1]), found)
