"""Which samples an optimizer step was made of, for messages about a step that is skipped."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from d2v.data.joint import parts_of
from d2v.types import Batch, by_encoder


class StepSamples:
    """Of this device; kept until it is known whether the step is skipped. Only then anything waits for the device."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Tensor, Tensor, Tensor]] = []

    def add(self, outputs: Mapping[str, Any], batches: Batch | Mapping[str, Batch]) -> None:
        """Add a micro-batch: what its training step returned, and what it read."""
        for encoder, batch in by_encoder(batches).items():
            broken = torch.zeros_like(batch.sample_ids, dtype=torch.bool)
            output = outputs.get("outputs", {}).get(encoder)
            if output is not None:  # no sample has a part in what is predicted of another
                sums = output.predictions.detach().sum((1, 2), dtype=torch.float32)  # [R]
                sums = sums + output.targets.sum((1, 2), dtype=torch.float32)
                broken = ~sums.view(len(broken), -1).isfinite().all(dim=1)
            elif batch.inputs.is_floating_point():
                broken = ~batch.inputs.flatten(1).sum(1, dtype=torch.float32).isfinite()
            self._parts.append((encoder, outputs["loss"].detach(), batch.sample_ids, broken))

    def clear(self) -> None:
        self._parts = []

    def all_are_broken(self) -> bool:
        """Whether every sample's predictions or targets are not finite, as with weights that are too large."""
        return all(bool(broken.all()) for *_, broken in self._parts)

    def names(self, trainer: L.Trainer, whole: bool) -> list[str]:
        """Those whose predictions, targets or inputs are not finite; where none is, all of a micro-batch whose loss is
        not.

        Args:
            trainer: Whose DataModule knows the names.
            whole: All of the step, instead.
        """
        names = []
        for encoder, loss, sample_ids, broken in self._parts:
            if not whole and loss.isfinite():
                continue
            if not whole and broken.any():
                sample_ids = sample_ids[broken]
            for sample_id in sample_ids.tolist():
                names.append(_name(trainer, encoder, sample_id))
        return names


def _name(trainer: L.Trainer, encoder: str, sample_id: int) -> str:
    parts = parts_of(getattr(trainer, "datamodule", None))
    if encoder in parts:
        return parts[encoder].training_sample(sample_id)
    return f"sample {sample_id}"
