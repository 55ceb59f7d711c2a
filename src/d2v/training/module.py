"""The one LightningModule of pretraining: a method, its teacher's decay and its optimizer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from d2v.data.joint import parts_of
from d2v.errors import UserError
from d2v.metrics import TEST_LOSS, VAL_LOSS, of_encoder
from d2v.model.data2vec import Data2Vec, Method
from d2v.model.early_masks import Collate
from d2v.model.encoder import Encoder
from d2v.model.masking import RandomSpanMasking, SpanMasking
from d2v.model.task import Task
from d2v.training.callbacks.collapse import PUBLISHED, CollapseCallback, CollapseLimits
from d2v.training.callbacks.ema_teacher import EMATeacherCallback
from d2v.training.callbacks.input_log import InputLog
from d2v.training.callbacks.weight_log import WeightLog
from d2v.training.optimizer import Decaying
from d2v.training.schedules import EMADecay, LRSchedule
from d2v.training.several_devices import FullySharded
from d2v.training.step import TrainingModule
from d2v.types import Batch, by_encoder

Batches = Batch | Mapping[str, Batch]
"""Of one encoder, or by the names of several."""


class Data2VecModule(TrainingModule):
    """Pretrains the encoders of a method and their teacher.

    Args:
        method: What is trained.
        ema: Decay of the teacher.
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        init_from: Checkpoint (ours or imported) whose weights to start from; null: random.
        init_teacher: Which weights of ``init_from`` the teacher starts as: its own average, or the student's.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
        collapse: Where the run ends, because targets or predictions have become too alike.
        weight_decay_on: What decays: "matrices" and kernels; "beit": all but vectors, CLS and positions; "all".
    """

    reads_labels = False

    def __init__(
        self,
        method: Method,
        ema: EMADecay,
        optimizer: Callable[[Iterable], Optimizer],
        schedule: LRSchedule,
        init_from: str | None = None,
        init_teacher: Literal["teacher", "student"] = "teacher",
        seed: int = 0,
        collapse: CollapseLimits = PUBLISHED,
        weight_decay_on: Decaying = "matrices",
    ) -> None:
        super().__init__(optimizer, schedule, seed, weight_decay_on)
        self.method = method
        self.ema = ema
        self.collapse = collapse
        self.init_from = init_from
        if init_from is not None:
            start_from(method, init_from, init_teacher)

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return self.method.encoders

    @property
    def validation_metrics(self) -> Sequence[str]:
        return [of_encoder(VAL_LOSS, name) for name in self.encoders]

    def on_fit_start(self) -> None:
        """Refuse spans that fit into no sample: what is masked would be something else.

        Raises:
            UserError: The longest sample has fewer tokens than a span.
        """
        if not isinstance(self.method, Data2Vec):
            return
        for name, part in parts_of(self.trainer.datamodule).items():  # type: ignore[attr-defined]
            task = self.method.tasks.get(name)
            if part.values_per_unit is None or task is None:
                continue
            if not isinstance(task.masking, SpanMasking | RandomSpanMasking):
                continue
            tokens = self.encoders[name].front.num_tokens(part.train_dataset().lengths.max(keepdims=True))
            longest = 0 if tokens is None else int(tokens[0])
            if 0 < longest < task.masking.span:
                key = f"model.media.{name}.masking.span" if name else "model.masking.span"
                raise UserError(
                    f"{key} is {task.masking.span}, and the longest sample has {longest} tokens: set it to fewer, such "
                    "as 5 or 10"
                )

    def configure_model(self) -> None:
        super().configure_model()
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.shard(self.trainer, self.method)

    def training_step(self, batches: Batches, batch_idx: int) -> dict[str, Any]:
        """The loss, and under ``outputs`` what each encoder's step gave: what callbacks log."""
        self.seed_step()
        with self.naming_misfits():
            outputs = self.method(by_encoder(batches), self.seed)
        loss = sum(self.method.loss_weight(name) * output.loss for name, output in outputs.items())
        return {"loss": loss, "outputs": outputs}

    def validation_step(self, batches: Batches, batch_idx: int) -> None:
        self._log_losses(VAL_LOSS, batches, prog_bar=True)

    def test_step(self, batches: Batches, batch_idx: int) -> None:
        self._log_losses(TEST_LOSS, batches, prog_bar=False)

    def predict_step(self, batches: Batches, batch_idx: int) -> Tensor | dict[str, Tensor]:
        """Features of a batch [B, D], the mean over tokens of the last layer; of batches by name, by name too."""
        features = {}
        for name, batch in by_encoder(batches).items():
            features[name] = self.encoders[name].embed(batch.inputs, padding_mask=batch.padding_mask)
        if isinstance(batches, Batch):
            return features[""]
        return features

    def with_early_masks(self, collate: Collate, name: str) -> Collate:
        """See :meth:`d2v.model.data2vec.Method.with_early_masks`."""
        return self.method.with_early_masks(collate, name, self.seed)

    def configure_callbacks(self) -> list[L.Callback]:
        needed = [CollapseCallback(self.collapse), EMATeacherCallback(self.method, self.ema), WeightLog(self.method)]
        return [*super().configure_callbacks(), *needed, InputLog(self.method)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for any training; and the data must mean what they meant.

        Raises:
            UserError: Their tokenizer, or how they normalise pixels, is not that of the checkpoint.
        """
        stored = checkpoint.get("d2v", {}).get("encoders", {})
        for name, encoder in self.encoders.items():
            for asset, text in (stored.get(name, {}).get("assets") or {}).items():
                if encoder.assets.get(asset, text) != text:
                    raise UserError(
                        f"--resume: {asset} of the data is not the one that the checkpoint was trained with, so that "
                        "inputs mean something else now. Give the data as they were (data.root, data.tokenizer, "
                        "data.mean), or start a new run with model.init_from"
                    )
        super().on_load_checkpoint(checkpoint)

    def _log_losses(self, metric: str, batches: Batches, prog_bar: bool) -> None:
        batches = by_encoder(batches)
        with self.naming_misfits():
            outputs = self.method(batches, self.seed)
        for name, output in outputs.items():
            size = output.mask.num_scored  # of what the loss is a mean
            self.log(of_encoder(metric, name), output.loss, batch_size=size, sync_dist=True, prog_bar=prog_bar)


def start_from(
    method: Method, path: str, teacher_from: Literal["teacher", "student"], front_of: str | None = None
) -> None:
    """Let training start from a checkpoint, and say what does not come from it; see
    :func:`d2v.checkpoints.load.init_weights`."""
    from d2v.checkpoints.load import init_weights

    if not isinstance(method, Data2Vec):
        raise UserError(f"model.init_from: nobody knows which weights of a {type(method).__name__} are in a checkpoint")
    for note in init_weights(method, path, teacher_from, front_of):
        rank_zero_info(f"init_from: {note}")


class Pretraining(Data2VecModule):
    """:class:`Data2VecModule` for one kind of input: what a recipe names, so that all of its keys stand side by side.

    Args:
        student: The encoder that is trained.
        ema: Decay of the teacher.
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        init_from: Checkpoint (ours or imported) whose weights to start from; null: random.
        init_teacher: Which weights of ``init_from`` the teacher starts as: its own average, or the student's.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
        collapse: Where the run ends, because targets or predictions have become too alike.
        weight_decay_on: What decays: "matrices" and kernels; "beit": all but vectors, CLS and positions; "all".
        task: Arguments of :class:`~d2v.model.task.Task`.
    """

    def __init__(
        self,
        student: Encoder,
        ema: EMADecay,
        optimizer: Callable[[Iterable], Optimizer],
        schedule: LRSchedule,
        init_from: str | None = None,
        init_teacher: Literal["teacher", "student"] = "teacher",
        seed: int = 0,
        collapse: CollapseLimits = PUBLISHED,
        weight_decay_on: Decaying = "matrices",
        **task: Any,
    ) -> None:
        method = Data2Vec(student, Task(student, **task))
        super().__init__(method, ema, optimizer, schedule, init_from, init_teacher, seed, collapse, weight_decay_on)
