"""Pictures and texts that show what a model sees, while it trains."""

import html
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from d2v import metrics
from d2v.errors import UserError
from d2v.evaluation.frozen import eval_mode
from d2v.training.callbacks.probe import AUTOCAST
from d2v.training.callbacks.run_plan import known_steps
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.training.encoder_media import MOST_KEPT, MarkedText, Media, draw_features, draw_masks
from d2v.training.finite_updates import step_ended
from d2v.training.several_devices import FullySharded
from d2v.training.step import TrainingModule
from d2v.types import Batch, by_encoder
from d2v.whole_files import whole_file, write_text

_FOLDER = "media"
_MOST_STEPS = 20


class MediaCallback(Callback):
    """Draws what is hidden from the student, and what the student makes of some inputs of its first batch, the way its
    front end shows them: after the first step, every so many optimizer steps, and after the last.

    They go to ``media/step-N/`` in ``trainer.default_root_dir``, which is the run's folder, and to W&B and TensorBoard.
    At most 20 steps stay in the folder, spread over the run. Rank zero draws. Training goes on as if it were not there.

    Args:
        every_n_steps: Optimizer steps between two times.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise UserError(f"MediaCallback: every_n_steps is {every_n_steps}: it must be at least 1.")
        self.every_n_steps = every_n_steps
        self._kept: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._drawn_at = -1
        self._disk_is_full = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._kept, self._drawn_at = {}, trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or "outputs" not in outputs or not step_ended(trainer):
            return
        for name, part in by_encoder(batch).items():
            if name not in self._kept:
                padding = part.padding_mask
                if padding is not None:
                    padding = padding[:MOST_KEPT].cpu()
                self._kept[name] = part.inputs[:MOST_KEPT].detach().cpu(), padding
        is_due = step == 1 or step % self.every_n_steps == 0 or step == known_steps(trainer)
        if not is_due or step == self._drawn_at:
            return
        self._drawn_at = step
        assert isinstance(pl_module, TrainingModule)
        for name, part in by_encoder(batch).items():
            media = self._draw(trainer, pl_module, name, part, outputs["outputs"][name])
            self._write(trainer, name, media)
            _log(trainer, name, media)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ThroughputCallback):
                callback.pause()

    def _draw(self, trainer: L.Trainer, module: TrainingModule, name: str, batch: Batch, output: Any) -> Media:
        encoder, media = module.encoders[name], Media()
        # What torch.compile has made is for the shapes of training.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            draw_masks(encoder, batch, output, media)
            if isinstance(trainer.strategy, FullySharded):  # no device has a whole encoder
                return media
            inputs, padding = self._kept[name]
            device, dtype = module.device, AUTOCAST.get(str(trainer.precision))
            if padding is not None:
                padding = padding.to(device)
            with eval_mode(encoder), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                draw_features(encoder, inputs.to(device), padding, media)
        return media

    def _write(self, trainer: L.Trainer, encoder: str, media: Media) -> None:
        """Into the run's folder; a full disk is no reason to stop a run whose checkpoints still fit."""
        root = Path(trainer.default_root_dir) / _FOLDER
        folder = root / f"step-{trainer.global_step:06d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for metric, picture in media.pictures.items():
                with whole_file(folder / f"{_stem(metric, encoder)}.png") as file:
                    picture.save(file, "png", compress_level=3)
            for metric, texts in media.texts.items():
                write_text(folder / f"{_stem(metric, encoder)}.json", json.dumps({"texts": texts}, ensure_ascii=False))
            if media.spectra:
                write_text(folder / f"{_stem(metrics.SPECTRUM, encoder)}.json", json.dumps(_rounded(media.spectra)))
            _thin_out(root)
        except OSError as error:
            if not self._disk_is_full:
                rank_zero_warn(f"media: {folder} cannot be written ({error.strerror}); training goes on without")
            self._disk_is_full = True


def _stem(metric: str, encoder: str) -> str:
    """The name of a file: ``masks``, or ``masks-vision``."""
    return "-".join(filter(None, (metric.removeprefix("media/"), encoder)))


def _rounded(spectra: Mapping[str, list[float]]) -> dict[str, list[float]]:
    rounded = {}
    for name, shares in spectra.items():
        rounded[name] = [float(f"{share:.4g}") for share in shares]
    return rounded


def _thin_out(root: Path) -> None:
    """Remove the step that is nearest to those beside it, but never the first or the last."""
    folders = sorted(root.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
    if len(folders) <= _MOST_STEPS:
        return
    steps = np.array([int(folder.name.removeprefix("step-")) for folder in folders])
    shutil.rmtree(folders[1 + int((steps[2:] - steps[:-2]).argmin())])


def _log(trainer: L.Trainer, encoder: str, media: Media) -> None:
    """To the loggers that take pictures and texts."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            shown: dict[str, Any] = {}
            for metric, picture in media.pictures.items():
                shown[metrics.of_encoder(metric, encoder)] = wandb.Image(picture)
            for metric, texts in media.texts.items():
                shown[metrics.of_encoder(metric, encoder)] = wandb.Html(_as_html(texts))
            if media.spectra:
                shown[metrics.of_encoder(metrics.SPECTRUM, encoder)] = wandb.Image(_drawn_spectra(media.spectra))
            logger.log_metrics(shown, step)
        elif isinstance(logger, TensorBoardLogger):
            board = logger.experiment
            for metric, picture in media.pictures.items():
                board.add_image(metrics.of_encoder(metric, encoder), np.asarray(picture), step, dataformats="HWC")
            for metric, texts in media.texts.items():
                board.add_text(metrics.of_encoder(metric, encoder), _as_html(texts), step)
            if media.spectra:
                name = metrics.of_encoder(metrics.SPECTRUM, encoder)
                board.add_image(name, _drawn_spectra(media.spectra), step, dataformats="HWC")


def _as_html(texts: list[MarkedText]) -> str:
    lines = []
    for text in texts:
        line = ""
        for piece, is_marked in text:
            escaped = html.escape(piece)
            if is_marked:
                escaped = f"<mark>{escaped}</mark>"
            line += escaped
        lines.append(f"<p>{line}</p>")
    return "\n".join(lines)


def _drawn_spectra(spectra: Mapping[str, list[float]]) -> np.ndarray:
    figure = Figure(figsize=(5, 3), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, shares in spectra.items():
        axes.loglog(range(1, len(shares) + 1), shares, label=name)
    axes.set_xlabel("direction")
    axes.set_ylabel("share of the variance")
    axes.legend(frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]
