"""kNN and linear accuracy of the student's features while it is being pretrained."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from d2v.config_messages import suggest
from d2v.data.data_module import PretrainingDataModule
from d2v.data.joint import parts_of
from d2v.errors import UserError
from d2v.evaluation.labelled_data import labelled_data
from d2v.evaluation.probe_encoder import probe_encoder
from d2v.metrics import KNN_TOP1, LINEAR_TOP1, of_encoder
from d2v.model.encoder import Encoder
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.several_devices import FullySharded
from d2v.training.step import TrainingModule
from d2v.training.stop_signals import STOP

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class ProbeCallback(Callback):
    """Probes at step 0, every so many optimizer steps and at the end; training goes on as if it were not there.

    What it finds is in ``trainer.callback_metrics`` under the names of ``metrics.py``. ``EarlyStopping`` by one of them
    counts probes, and ``checkpoint.monitor`` saves the very step that was probed. Rank zero computes and the other
    ranks wait, at most as long as the process group's timeout (30 minutes unless the strategy says otherwise), so keep
    ``max_samples`` moderate on many devices. Random states and the mode of each part are restored.
    A signal that stops the run gives a probe up.

    Args:
        every_n_steps: Optimizer steps between two probes.
        max_samples: At most so many of each split, evenly spaced; null: all.
        k: Neighbours of the kNN classifier.
        linear: Also fit a linear classifier.
        data: Labelled samples: a DataModule by class path, or a folder or table for the one that `d2v probe` takes for
            such an encoder; null: those that are trained on. Of a joint model one for each medium to probe, by name.
    """

    def __init__(
        self,
        every_n_steps: int,
        max_samples: int | None = 10_000,
        k: int = 20,
        linear: bool = True,
        data: PretrainingDataModule | dict[str, PretrainingDataModule | str | None] | str | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("max_samples", max_samples), ("k", k)):
            if value is not None and value < 1:
                raise UserError(f"ProbeCallback: {name} is {value}: it must be at least 1.")
        self.every_n_steps = every_n_steps
        self.max_samples = max_samples
        self.k = k
        self.linear = linear
        self.data = data
        self.names: list[str] = []
        """Of the metrics, known once the data are."""
        self.last_step = -1
        """Optimizer step of the last probe."""
        self._parts: Mapping[str, PretrainingDataModule] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out at once whether there is something to probe."""
        if stage != "fit":
            return
        if isinstance(trainer.strategy, FullySharded):
            raise UserError(
                "ProbeCallback: trainer.strategy leaves no device with a whole encoder: take the probe out, and let "
                "`d2v probe` read the run's checkpoints"
            )
        self._parts, self.names = self._probed_parts(trainer, pl_module), []
        for name, part in self._parts.items():
            if part.probe_dataloaders(self.max_samples)[1] is None:  # on every rank
                rank_zero_info(f"probe: {part.root} has no validation split, so a fifth of each class is held out")
            self.names += [of_encoder(metric, name) for metric in (KNN_TOP1, LINEAR_TOP1)[: 1 + self.linear]]
        for stopping in self._early_stopping(trainer):
            stopping._should_skip_check = lambda trainer: True  # type: ignore[method-assign]  # patience counts probes
        for saving in trainer.checkpoint_callbacks:
            if isinstance(saving, ModelCheckpoint) and saving.monitor in self.names and saving._every_n_epochs == 1:
                saving._every_n_epochs, saving._every_n_train_steps = 0, self.every_n_steps  # right after a probe

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The untrained encoder is the first point of the curve; a resumed run has it already."""
        if trainer.global_step == 0:
            self._probe(trainer, pl_module)
        self.last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self.last_step:  # micro-batches share a step
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self.last_step:
            self._probe(trainer, pl_module)

    def _probe(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_step = trainer.global_step
        metrics: dict[str, float] = {}
        if trainer.is_global_zero:
            with isolate_rng():
                metrics = STOP.unless_stopped(lambda: self._metrics(trainer, pl_module)) or {}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)
        metrics = trainer.strategy.broadcast(metrics)
        for name, value in metrics.items():
            trainer.callback_metrics[name] = torch.tensor(value)
        if metrics and trainer.global_step > 0:  # a short-lived dip below the untrained encoder is no reason to stop
            for stopping in self._early_stopping(trainer):
                stopping._run_early_stopping_check(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ThroughputCallback):
                callback.pause()

    def _early_stopping(self, trainer: L.Trainer) -> list[EarlyStopping]:
        """Those that watch a metric of this callback."""
        return [stopping for stopping in trainer.early_stopping_callbacks if stopping.monitor in self.names]

    def _metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        assert isinstance(pl_module, TrainingModule)
        metrics = {}
        for name, part in self._parts.items():
            train_loader, val_loader = part.probe_dataloaders(self.max_samples)
            result = probe_encoder(
                pl_module.encoders[name],
                train_loader,
                val_loader,
                pl_module.device,
                k=self.k,
                linear=self.linear,
                autocast=AUTOCAST.get(str(trainer.precision)),
                progress=False,
            )
            metrics[of_encoder(KNN_TOP1, name)] = result.knn_top1
            if result.linear is not None:
                metrics[of_encoder(LINEAR_TOP1, name)] = result.linear.top1
        return metrics

    def _probed_parts(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Mapping[str, PretrainingDataModule]:
        """The data to probe on, by the name of the encoder that reads them.

        Raises:
            UserError: There are no labels, or no encoder for the data.
        """
        encoders: Mapping[str, Encoder] = getattr(pl_module, "encoders", {})
        parts = parts_of(getattr(trainer, "datamodule", None))
        labelled = {name: part for name, part in parts.items() if part.class_names}
        if self.data is None or not encoders:
            if not labelled:
                roots = " ".join(f"{part.key}.root {part.root}," for part in parts.values())
                raise UserError(
                    f"ProbeCallback: the data of this run, {roots or 'which are no DataModule of d2v,'} have no "
                    "labels. Give it a labelled set: data, a folder or table (--trainer.callbacks.data LABELLED) or a "
                    "DataModule by class path; or take it out"
                )
            return labelled
        chosen = self.data
        if not isinstance(chosen, Mapping):
            chosen = {_reader(chosen, encoders): chosen}
        probed = {}
        for name, data in chosen.items():
            if name not in encoders:
                raise UserError(f"ProbeCallback: data.{name}: this run has no such encoder{suggest(name, encoders)}")
            encoder, assets = encoders[name], dict(encoders[name].assets)
            if data is None:
                data = labelled.get(name)
                if data is None:
                    raise UserError(f"ProbeCallback: data.{name}: the run's own have no labels; give a labelled set")
            elif isinstance(data, str):
                data = labelled_data(encoder, {"root": data})
            if not isinstance(data, PretrainingDataModule):
                raise UserError(f"ProbeCallback: data is a {type(data).__name__}; it must be a DataModule of d2v")
            data.adapt_to(encoder)
            encoder.assets = assets  # which say how the encoder is trained
            probed[name] = data
        return probed


def _reader(data: PretrainingDataModule | str, encoders: Mapping[str, Encoder]) -> str:
    """The encoder that data without a name are for.

    Raises:
        UserError: It may be any of several, or it is none.
    """
    readers = []
    for name, encoder in encoders.items():
        package = type(encoder.front).__module__.rpartition(".")[0]
        if len(encoders) == 1 or isinstance(data, str) or type(data).__module__.startswith(f"{package}."):
            readers.append(name)
    if len(readers) != 1:
        names = " or ".join(readers or encoders)
        shown = data if isinstance(data, str) else type(data).__name__
        raise UserError(f"ProbeCallback: data {shown} may be for {names}: say which, --trainer.callbacks.data.NAME")
    return readers[0]


def probe_callbacks(trainer: L.Trainer) -> list[ProbeCallback]:
    """Those of a trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, ProbeCallback)]  # type: ignore[attr-defined]
