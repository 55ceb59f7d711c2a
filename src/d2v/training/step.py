"""What an optimizer step of pretraining and one of fine-tuning have in common."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from d2v import __version__
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.model.randomness import combine_keys
from d2v.training.callbacks.log import LogCallback
from d2v.training.callbacks.run_plan import RunPlan, total_steps
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.finite_updates import FiniteUpdates
from d2v.training.optimizer import Decaying, Groups, fuse, parameter_groups
from d2v.training.plain_batches import as_batch
from d2v.training.schedules import LRSchedule
from d2v.training.several_devices import suit_ddp
from d2v.types import Batch


class TrainingModule(FiniteUpdates):
    """Trains encoders with keyed randomness, one optimizer and checkpoints that ``d2v.load`` reads.

    The arguments are described by the subclasses.
    """

    reads_labels: ClassVar[bool] = True
    """Whether it has a use for the labels of a batch; DataModules of d2v read none otherwise."""
    keeps_best: ClassVar[bool] = False
    """Whether the best checkpoint by the first of :attr:`validation_metrics` is kept, if nobody names another."""

    def __init__(
        self, optimizer: Callable[[Iterable], Optimizer], schedule: LRSchedule, seed: int, weight_decay_on: Decaying
    ) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.schedule = schedule
        self.seed = seed
        self.weight_decay_on = weight_decay_on
        self._seeded_step = -1
        self._micro_batch = 0
        self._has_stepped = False

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders that are trained, by name."""
        raise NotImplementedError

    @property
    def validation_metrics(self) -> Sequence[str]:
        """Names of the metrics of validation, known once training starts."""
        raise NotImplementedError

    def seed_step(self) -> None:
        """Let torch's generator start from the key (seed, optimizer step, micro-batch of that step, rank).

        So dropout, stochastic depth and noise of a resumed run are those of an uninterrupted one on the same
        number of devices, and no generator state has to be saved.
        """
        step = self.trainer.global_step
        self._micro_batch += 1
        if step != self._seeded_step:
            self._micro_batch = 0
        self._seeded_step = step
        key = combine_keys(self.seed, step, self._micro_batch, self.global_rank)
        torch.manual_seed(int(key) & (2**63 - 1))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch | dict[str, Batch]:
        """Lightning calls this for each batch, before callbacks and steps get it: whatever a DataLoader gives is made a
        :class:`~d2v.types.Batch`, or one for each encoder."""
        loop: Any = self.trainer._active_loop
        epoch = 0
        if loop is self.trainer.fit_loop:
            loop, epoch = loop.epoch_loop, self.current_epoch
        number = loop.batch_progress.current.ready * self.trainer.world_size + self.global_rank
        if list(self.encoders) == [""]:
            return as_batch(batch, self.encoders[""], number, epoch)
        return {name: as_batch(part, self.encoders[name], number, epoch) for name, part in batch.items()}

    @contextmanager
    def naming_misfits(self) -> Iterator[None]:
        """Until the first optimizer step is done, what fails in here is wrong in the config: nothing else has changed.

        Raises:
            UserError: It says what failed.
        """
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self._has_stepped or isinstance(error, (UserError, torch.OutOfMemoryError)):
                raise
            text = f"model: its parts do not fit each other, or the data: {' '.join(str(error).split())}"
            raise UserError(text) from error

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        with self.naming_misfits():
            super().optimizer_step(*args, **kwargs)
        self._has_stepped = True

    def configure_model(self) -> None:
        """Lightning calls this on each device, before the strategy takes the model."""
        suit_ddp(self.trainer)

    def parameter_groups(self) -> Groups:
        """Groups of the optimizer, which may have rates of their own."""
        return parameter_groups(self, self.weight_decay_on)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and a schedule that steps with it."""
        optimizer = self._build_optimizer()
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total_steps(self.trainer)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _build_optimizer(self) -> Optimizer:
        optimizer = self.optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        scaler = None if self._trainer is None else getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is None:  # a fused one takes the scale of fp16 away itself, and then nobody could clip
            fuse(optimizer)
        return optimizer

    def configure_callbacks(self) -> list[L.Callback]:
        """What training needs whatever list of callbacks a config holds."""
        warnings.filterwarnings("ignore", "You have overridden `on_after_batch_transfer`")  # for any data
        needed: list[L.Callback] = [LogCallback(), ThroughputCallback()]
        given = [] if self._trainer is None else self._trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, RunPlan) for callback in given):
            needed = [RunPlan(), *needed]
        return needed

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.require_finite(checkpoint)
        # Plain values only: a checkpoint of ours loads with weights_only=True and names no code but the encoder's.
        encoders = {}
        for name, encoder in self.encoders.items():
            encoders[name] = {"recipe": encoder.recipe, "assets": encoder.assets, "licence": encoder.licence}
        checkpoint["d2v"] = {
            "version": __version__,
            "encoders": encoders,
            "skipped_updates": self.skipped_updates,
        }
        if "optimizer_states" in checkpoint:  # of a trainer, which can go on from it
            optimizers = self.trainer.optimizers
            checkpoint["d2v"]["optimizers"] = [type(optimizer).__name__ for optimizer in optimizers]
            checkpoint["d2v"]["micro_batches"] = self.trainer.accumulate_grad_batches

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        """Make the parts that only a checkpoint tells, before its weights are loaded.

        Raises:
            UserError: It is a checkpoint of another task.
        """

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """On a resume the learning rate, decay and betas of the config given hold from here on.

        Raises:
            UserError: The optimizer is another one, or the parameters are grouped otherwise, as layers with and without
                rates of their own are.
        """
        if self._trainer is not None and self._trainer.state.fn != TrainerFn.FITTING:
            return
        stored, optimizer = checkpoint.get("d2v", {}), self._build_optimizer()
        self.skipped_updates = stored.get("skipped_updates", 0)
        if "micro_batches" in stored:  # of a step on as many devices as there were
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            done = progress["processed"]
            more = done // stored["micro_batches"] * self.trainer.accumulate_grad_batches - done
            for name in progress:
                progress[name] += more
        named = type(optimizer).__name__
        for before in stored.get("optimizers", []):
            if before != named:
                raise UserError(
                    f"--resume: model.optimizer is {named}, and the moments in the checkpoint are of {before}; "
                    "give that one, or start a new run from its weights with model.init_from"
                )
        now = optimizer.param_groups
        for state in checkpoint.get("optimizer_states", []):
            groups = state["param_groups"]
            sizes = [len(group["params"]) for group in groups]
            if sizes != [len(group["params"]) for group in now]:
                raise UserError(
                    "--resume: the optimizer has other groups of parameters than the checkpoint's; give "
                    "model.layer_decay, model.head_lr_scale, model.weight_decay_on and model.freeze as they were, or "
                    "start a new run from it with model.checkpoint"
                )
            for group, fresh in zip(groups, now, strict=True):
                lr, initial_lr = group["lr"], group["initial_lr"]
                if initial_lr != fresh["lr"]:
                    lr *= fresh["lr"] / initial_lr
                group.update({**fresh, "params": group["params"], "lr": lr, "initial_lr": fresh["lr"]})
        for schedule in checkpoint.get("lr_schedulers", []):
            schedule["base_lrs"] = [group["lr"] for group in now]
