"""What an optimizer step of pretraining and one of fine-tuning have in common."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer

from d2v import __version__
from d2v.model.encoder import Encoder
from d2v.model.randomness import combine_keys
from d2v.training.callbacks.log import LogCallback
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.optimizer import build_optimizer, let_config_win, parameter_groups
from d2v.training.schedules import LRSchedule


class TrainingModule(L.LightningModule):
    """Trains encoders with keyed randomness, one optimizer and checkpoints that ``d2v.load`` reads.

    Args:
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
    """

    def __init__(self, optimizer: Callable[[Iterable], Optimizer], schedule: LRSchedule, seed: int) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self._seeded_step = -1
        self._micro_batch = 0

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders that are trained, by name."""
        raise NotImplementedError

    def seed_step(self) -> None:
        """Let torch's generator start from the key (seed, optimizer step, micro-batch of that step, rank).

        So dropout, stochastic depth and the decoder's noise of a resumed run are those of an uninterrupted one on any
        number of devices, and no generator state has to be saved.
        """
        step = self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._seeded_step else 0
        self._seeded_step = step
        key = combine_keys(self.seed, step, self._micro_batch, self.global_rank)
        torch.manual_seed(int(key) & (2**63 - 1))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of the optimizer, which may have rates of their own."""
        return parameter_groups(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return build_optimizer(self, self.parameter_groups(), self.optimizer, self.schedule)

    def configure_callbacks(self) -> list[L.Callback]:
        """What training needs whatever list of callbacks a config holds."""
        return [LogCallback(), ThroughputCallback()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain values only: a checkpoint of ours loads with weights_only=True and names no code but the encoder's.
        encoders = {}
        for name, encoder in self.encoders.items():
            encoders[name] = {"recipe": encoder.recipe, "assets": encoder.assets, "licence": encoder.licence}
        checkpoint["d2v"] = {"version": __version__, "encoders": encoders}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """On a resume the config given wins: a changed learning rate, decay or beta holds from here on."""
        if self._trainer is None or self._trainer.state.fn == TrainerFn.FITTING:
            let_config_win(checkpoint, self.parameter_groups(), self.optimizer)
