"""Updates whose numbers are not finite are skipped, and too many in a row stop the run; what stops one is kept here."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from d2v.errors import some_of
from d2v.metrics import SKIPPED_UPDATES
from d2v.training.callbacks.spikes import SkipSpikes
from d2v.training.several_devices import whole
from d2v.training.step_samples import StepSamples

log = logging.getLogger(__name__)

NOT_FINITE = "the loss or a gradient is not finite"
_MOST_SAID = 20  # messages about skipped updates
_MOST_NAMED = 16  # samples in one
MOST_IN_A_ROW = 10
# The scaler of fp16 halves its scale each time. Torch's first, 65,536, may be far too large; after so many it is below
# 1e-6, where the official runs give up (min_loss_scale).
MOST_WITH_SCALER = 36


def step_ended(trainer: L.Trainer) -> bool:
    """At the end of a micro-batch: whether it ended an optimizer step, of whatever module. All devices agree."""
    return not trainer.fit_loop._should_accumulate()


class FiniteUpdates(L.LightningModule):
    """A module whose weights, optimizer, schedules and teacher never meet a loss or a gradient that is not finite.

    Whether an update is skipped is read from the norm of the gradients, which the devices of a run share. The host
    waits for that number once an optimizer step; nothing that is computed changes. A :class:`SkipSpikes` among the
    trainer's callbacks has a say, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped_updates = 0
        self.skipped_in_a_row = 0
        self.grad_norm: Tensor | None = None
        """Of the last optimizer step, before clipping."""
        self.failure: Exception | None = None
        """Ends the run after this step, when the run's checkpoint has been saved; all devices have it or none."""
        self._last_loss: Tensor | None = None
        self._samples = StepSamples()
        self._objection = ""
        """Why the last optimizer step was skipped; empty: it was not."""
        self._named: list[str] = []
        """Samples of the steps in a row that were skipped."""
        self._said = 0

    @property
    def updates(self) -> int:
        """Optimizer steps that have moved the weights: the clock of the schedules."""
        return self.trainer.global_step - self.skipped_updates

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # The factor is exactly 1, or NaN: then the gradients are NaN, and all devices see it.
        super().backward(loss * (1 + 0 * loss.detach()), *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, or take them away, so that the optimizer leaves weights and moments as they are."""
        precision = self.trainer.precision_plugin
        scaler = getattr(precision, "scaler", None)
        # Such an optimizer (fused) takes the scale away by itself, and finds out by itself what is not finite.
        scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
        parameters = list(precision.main_params(optimizer))
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        self.grad_norm = norm / scaler.get_scale() if scaled else norm  # type: ignore[union-attr]
        self._objection = self._objection_to(float(self.grad_norm))
        if not self._objection:
            self.skipped_in_a_row = 0
            if scaled or not gradient_clip_val or gradient_clip_algorithm == "value":
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            else:  # the same, but for a norm of its own
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
            return
        self.skipped_in_a_row += 1
        self.skipped_updates += 1
        if self.skipped_in_a_row >= (MOST_IN_A_ROW if scaler is None else MOST_WITH_SCALER):
            self.failure = FloatingPointError(self._advice(self.trainer.global_step + 1))
        for parameter in parameters:
            if scaled and parameter.grad is not None:  # the scaler must find something to skip
                parameter.grad.fill_(torch.nan)
            else:
                parameter.grad = None

    def _objection_to(self, norm: float) -> str:
        if not math.isfinite(norm):
            return NOT_FINITE
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SkipSpikes):
                return callback.objection(norm)
        return ""

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.skipped_in_a_row == 0:
            super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        self.skipped_in_a_row = 0
        self.failure = None
        self._samples.clear()
        self._said = 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the callbacks, so that the run's checkpoint has been saved.

        Raises:
            FloatingPointError: Too many updates in a row were skipped; or whatever else :attr:`failure` is.
        """
        self._samples.add(outputs, batch)
        if not step_ended(self.trainer):
            return  # gradients are still being accumulated
        if self.skipped_updates:
            self.log(SKIPPED_UPDATES, float(self.skipped_updates), rank_zero_only=True)
        if self.skipped_in_a_row == 0:
            self._last_loss = outputs["loss"].detach() * self.trainer.accumulate_grad_batches
            self._named = []
        else:
            self._name_samples()
        self._samples.clear()
        if self.failure is not None:
            if self._named:
                self.failure.add_note(f"samples of what was skipped: {some_of(self._named, _MOST_NAMED)}")
            self.trainer._logger_connector.update_train_step_metrics()  # which Lightning would do after this
            raise self.failure

    def _name_samples(self) -> None:
        """Of a step that was skipped: by each device that had them, or by all, if nobody's loss tells."""
        trainer, spike = self.trainer, self._objection != NOT_FINITE
        names = self._samples.names(trainer, whole=spike)
        had = trainer.strategy.reduce_boolean_decision(bool(names), all=False)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        lowered = ""
        if not had and scaler is None:
            names = self._samples.names(trainer, whole=True)
        elif not had:  # fp16 is looking for its scale, and no sample is to blame
            lowered = ", and the scale of fp16 halved"
        self._named = list(dict.fromkeys([*self._named, *names]))
        lowers_first = lowered and self.skipped_in_a_row == 1 and trainer.is_global_zero
        if self._said >= _MOST_SAID or not (names or lowers_first):
            return
        self._said += 1
        text = f"step {trainer.global_step:,}: {self._objection}; this update is skipped{lowered}"
        text += f" ({self.skipped_updates:,} so far)"
        if names and self._samples.all_are_broken():
            text += f": each of its samples, {some_of(names, 2)}"
        elif names:
            text += f": {some_of(names, _MOST_NAMED)}"
        if self._said == _MOST_SAID:
            text += f". {SKIPPED_UPDATES} counts those to come"
        log.warning(text)

    def require_finite(self, checkpoint: Mapping[str, Any]) -> None:
        """Before a checkpoint is written. Weights whose squares overflow are of no more use than those that are not
        finite: no loss of theirs is.

        Raises:
            FloatingPointError: A weight or a moment of the optimizer is not finite.
        """
        for part, what, norm_type in (
            ("state_dict", "a weight is not finite, or its square is not", 2.0),
            ("optimizer_states", "a moment of the optimizer is not finite", math.inf),
        ):
            tensors = []
            for value in tree_leaves(checkpoint.get(part)):
                if isinstance(value, Tensor) and value.is_floating_point():
                    tensors.append(value)
            finite = bool(torch.nn.utils.get_total_norm(tensors, norm_type).isfinite())
            if self._trainer is not None:  # one device may have all of them
                finite = self.trainer.strategy.reduce_boolean_decision(finite)
            if not finite:
                raise FloatingPointError(
                    f"step {self.global_step:,}: {what}, so no checkpoint is written; earlier ones stay. "
                    f"{self._what_to_try()}"
                )

    def _advice(self, step: int) -> str:
        last = "there was no finite loss"
        if self._last_loss is not None:
            last = f"the last finite loss was {float(self._last_loss):.4g}"
        return (
            f"step {step:,}: {self._objection}, {self.skipped_in_a_row} times in a row; {last} at step "
            f"{step - self.skipped_in_a_row:,}, whose weights are in last.ckpt. {self._what_to_try()}"
        )

    def _what_to_try(self) -> str:
        rate = self.trainer.optimizers[0].param_groups[0]["initial_lr"]
        precision = ""
        if str(self.trainer.precision).startswith("16"):
            precision = f"trainer.precision bf16-mixed or 32 (now {self.trainer.precision}), "
        return (
            f"Start again, or from an earlier checkpoint, with a lower model.optimizer.lr (now {rate:g}), {precision}"
            "trainer.gradient_clip_val; and look at the samples for extreme values"
        )
