"""Real training steps of a recipe, timed between one and the next while Lightning's own loop runs them."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from typing import Any

import lightning as L
import torch

from d2v.bench.gpu_work import gpu_work
from d2v.bench.memory import peak_gigabytes, reset_peak
from d2v.bench.step_parts import PARTS, StepParts
from d2v.bench.stopwatch import Clock
from d2v.training.matrix_ceiling import dtype_of, matrix_ceiling
from d2v.training.module import Data2VecModule
from d2v.types import Batch, by_encoder

WARM_UP = 3
"""Steps before the first that counts; the first ones allocate memory, choose kernels and compile."""

_NEVER = 10**9
_CEILING_SECONDS = 2.0

Steps = Generator[None, None, dict[str, Any]]
"""Each ``yield`` is a training step; then what was found."""
Peer = Callable[[Batch, Any], None]
"""A step of another implementation on the same batch, with the mask of ours."""


class TimedSteps(L.Callback):
    """Measures one thing after the other, a step at a time, and then ends the run.

    Args:
        parts: The trainer's profiler.
        steps: How many count, of each kind.
        make_peers: From the module and its device to other implementations by name; called after ours was timed alone.
    """

    def __init__(
        self,
        parts: StepParts,
        steps: int,
        make_peers: Callable[[Data2VecModule, torch.device], dict[str, Peer]] | None = None,
    ) -> None:
        self.parts, self.steps, self.make_peers = parts, steps, make_peers
        self.result: dict[str, Any] = {}
        self._script: Iterator[None] | None = None
        self._step: tuple[Any, Any] = (None, None)  # outputs and batch of the one that has ended

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Data2VecModule)
        self._script = self._measure(trainer, pl_module)
        next(self._script)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._step = (outputs, batch)
        assert self._script is not None
        if next(self._script, "end") == "end":
            trainer.should_stop = True

    def _measure(self, trainer: L.Trainer, module: Data2VecModule) -> Iterator[None]:
        device, clock = module.device, Clock(module.device)
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        ceiling = matrix_ceiling(device, dtype_of(str(trainer.precision)), _CEILING_SECONDS)
        trainer.log_every_n_steps = _NEVER  # type: ignore[attr-defined]
        for _ in range(WARM_UP):
            yield
        reset_peak(device)
        seconds, flops, samples, units = [], 0.0, 0, defaultdict[str, float](float)
        moments = [clock.now()]
        for _ in range(self.steps):
            yield
            moments.append(clock.now())
            flops += self._flops(module)
            for name, batch in by_encoder(self._step[1]).items():
                samples += len(batch.inputs)
                part = trainer.datamodule.parts[name]  # type: ignore[attr-defined]
                units[f"{part.unit}_per_second"] += float(part.count_units(batch))
        for start, end in itertools.pairwise(moments):
            seconds.append(clock.seconds(start, end))
        step, total = statistics.median(seconds), sum(seconds)
        self.result = {
            "step_seconds": step,
            "step_seconds_least": min(seconds),
            "step_seconds_most": max(seconds),
            "samples_per_second": samples / total,
            **{unit: amount / total for unit, amount in units.items()},
            "peak_memory_gb": peak_gigabytes(device),
            "flops_per_step": flops / self.steps or None,
            "batch": self._shapes(),
        }
        self.result["parts"] = yield from self._parts(trainer, module, clock, log_every)
        self.result |= yield from gpu_work(device)
        if self.make_peers is not None:
            yield from self._compare(module, clock, self.make_peers(module, device))
        ceiling = max(ceiling, matrix_ceiling(device, dtype_of(str(trainer.precision)), _CEILING_SECONDS))
        self.result["ceiling_flops"] = ceiling
        self.result["mfu"] = None if not flops else flops / total / ceiling

    def _parts(self, trainer: L.Trainer, module: Data2VecModule, clock: Clock, log_every: int) -> Steps:
        """Means of the parts. Of logging, what a step that is logged takes more is divided by how many are not."""
        self.parts.wrap_method(module.method)
        for logger in trainer.loggers:
            logger.log_metrics = self.parts.wrap(logger.log_metrics, "logging")  # type: ignore[method-assign]
        found = []
        for number in range(self.steps + 1):
            if number == self.steps:
                trainer.log_every_n_steps = 1  # type: ignore[attr-defined]
            self.parts.begin(clock)
            yield
            found.append(self.parts.end())
        trainer.log_every_n_steps = _NEVER  # type: ignore[attr-defined]
        logged = found.pop()
        means = {}
        for part in PARTS:
            means[part] = statistics.median([each[part] for each in found])
        means["logging"] += max(0.0, logged["logging"] - means["logging"]) / log_every
        return means

    def _compare(self, module: Data2VecModule, clock: Clock, peers: dict[str, Peer]) -> Iterator[None]:
        """A step of ours, one of each peer, and again: what disturbs the machine disturbs them all."""
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(1 + self.steps):
            start = clock.now()
            yield
            pairs = {"": (start, clock.now())}
            outputs, batch = self._step
            for name, peer in peers.items():
                start = clock.now()
                peer(batch, outputs["outputs"][""].mask)
                pairs[name] = (start, clock.now())
            if number:  # the first ones warm up
                ours.append(clock.seconds(*pairs.pop("")))
                for name, pair in pairs.items():
                    theirs[name].append(clock.seconds(*pair))
        self.result["peers"] = {}
        for name, seconds in theirs.items():
            ratios = [other / own for own, other in zip(ours, seconds, strict=True)]
            self.result["peers"][name] = {
                "step_seconds": statistics.median(seconds),
                "our_step_seconds": statistics.median(ours),
                "peer_over_ours": statistics.median(ratios),
                "least_ratio": min(ratios),
                "most_ratio": max(ratios),
            }

    def _flops(self, module: Data2VecModule) -> float:
        outputs, batches = self._step
        total = 0.0
        for name, batch in by_encoder(batches).items():
            total += module.method.flops(name, batch, outputs["outputs"][name]) or 0.0
        return total

    def _shapes(self) -> dict[str, Any]:
        outputs, batches = self._step
        shapes = {}
        for name, batch in by_encoder(batches).items():
            mask = outputs["outputs"][name].mask
            shapes[name] = {
                "inputs": list(batch.inputs.shape),
                "tokens": mask.masked.shape[1],
                "masks": mask.num_masks,
                "visible": mask.visible_index.shape[1],
                "masked": mask.masked_index.shape[1],
            }
        return shapes.get("", shapes)
