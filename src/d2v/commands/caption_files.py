"""The words of each recording with their times, which `d2v predict` writes beside its table."""

import os
import re
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from d2v.data.broken_samples import SkippedSamples
from d2v.errors import UserError
from d2v.finetuning.captions import FORMATS
from d2v.whole_files import write_text


class CaptionFiles(Callback):
    """Writes a file for each recording, in folders like those of the recordings.

    Args:
        folder: where to.
        kind: json, srt or vtt; all: a file of each.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self._kinds = list(FORMATS) if kind == "all" else [kind]
        self._samples: SkippedSamples | None = None
        self._names: list[str] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        dataset: Any = trainer.predict_dataloaders.dataset  # type: ignore[union-attr]
        self._samples = dataset.skipped
        self._names = _different([dataset.skipped.name(index) for index in range(len(dataset))])

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        assert self._samples is not None
        for sample_id, words in zip(outputs["rows"].sample_ids.tolist(), outputs["words"], strict=True):
            if self._samples.is_broken(sample_id):  # the batch has another sample in its place
                continue
            for kind in self._kinds:
                path = self.folder / f"{self._names[sample_id]}.{kind}"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_text(path, FORMATS[kind](words))
                except OSError as error:
                    raise UserError(
                        f"{path}: cannot be written ({error.strerror}); set another trainer.default_root_dir"
                    ) from error

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rank_zero_info(f"times: a .{' and a .'.join(self._kinds)} file for each recording in {self.folder}")


def _different(names: list[str]) -> list[str]:
    """Names below their common folder, without endings unless two would be the same."""
    common = os.path.commonpath(list(map(os.path.dirname, names)))
    # As if the common folder were the root: a member of an archive may be called ../../x.wav.
    relative = [os.path.normpath(f"/{name.removeprefix(common)}").lstrip("/") for name in names]
    short = [re.sub(r"\.\w{1,5}$", "", name) for name in relative]
    seen: dict[str, int] = {}
    for name in short:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    chosen = []
    for name, whole in zip(short, relative, strict=True):
        chosen.append(whole if seen[name.lower()] > 1 else name)
    return chosen
