"""A method of two encoders trains, is logged, probed, saved and loaded by the code that knows the interface alone."""

import csv
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import PictureModule, make_module, make_trainer
from torch import nn

import d2v
from d2v.data.joint import JointDataModule
from d2v.model.data2vec import Method, step
from d2v.model.encoder import Encoder
from d2v.model.teacher import EMATeacher
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback
from d2v.training.module import Data2VecModule
from d2v.types import Batch, Data2VecOutput

NAMES = ("coarse", "fine")


class Two(Method):
    """Two students that share nothing, with a teacher and a task each."""

    def __init__(self) -> None:
        super().__init__()
        made = {name: make_module(kind).method for name, kind in zip(NAMES, ("1.0", "2.0"), strict=True)}
        self.student = nn.ModuleDict({name: method.encoders[""] for name, method in made.items()})
        self.task = nn.ModuleDict({name: method.task for name, method in made.items()})
        self.teacher = nn.ModuleDict({name: EMATeacher(student, {}) for name, student in self.encoders.items()})

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return dict(self.student.items())

    def forward(self, batches: Mapping[str, Batch], seed: int) -> Mapping[str, Data2VecOutput]:
        outputs = {}
        for name, batch in batches.items():
            outputs[name] = step(self.student[name], self.teacher[name], self.task[name], batch, seed)
        return outputs

    def move_teacher(self, decay: float) -> None:
        for name, student in self.encoders.items():
            self.teacher[name].update(student, decay)


def test_two_encoders(tmp_path: Path) -> None:
    made = make_module()
    module = Data2VecModule(Two(), made.ema, made.optimizer, made.schedule, seed=1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = make_trainer(
        tmp_path, max_steps=4, log_every_n_steps=2, logger=CSVLogger(str(tmp_path), name="", version=""),
        callbacks=[RunCheckpoint(dirpath=str(tmp_path / "checkpoints")), ProbeCallback(4, linear=False)],
        enable_checkpointing=True,
    )  # fmt: skip
    trainer.fit(module, datamodule=JointDataModule({name: PictureModule(32) for name in NAMES}))
    for part in ("student", "teacher", "task"):
        for name in NAMES:
            moved = [key for key in before if key.startswith(f"method.{part}.{name}.")]
            moved = [key for key in moved if not torch.equal(before[key], module.state_dict()[key])]
            assert moved, (part, name)

    with (tmp_path / "metrics.csv").open() as file:
        logged = {name for row in csv.DictReader(file) for name, value in row.items() if value}
    for metric in ("train/regression_loss", "train/target_effective_rank", "throughput/images_per_second",
                   "probe/knn_top1"):  # fmt: skip
        assert {f"{metric}/{name}" for name in NAMES} <= logged
    assert {"train/loss", "train/ema_decay", "train/lr"} <= logged

    for name, encoder in module.encoders.items():
        loaded = d2v.load(tmp_path, modality=name)
        for key, value in encoder.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key])
