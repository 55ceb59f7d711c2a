"""Folders of runs, as training leaves them."""

import json
from pathlib import Path
from typing import Any

CONFIG = """\
model:
  class_path: d2v.training.module.Pretraining
  init_args: {num_masks: 4, optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002}}}
data: {class_path: d2v.modalities.vision.data.ImageNetDataModule, init_args: {root: pictures}}
trainer: {max_steps: 100}
"""
START = {
    "event": "start", "time": 1.8e9, "step": 0, "planned_steps": 100, "trained_parameters": 1_500_000,
    "command": "d2v fit --config demo/vision.yaml", "folder": "/home/me", "d2v": "0.1.0", "commit": "abc123",
    "python": "3.12.1", "torch": "2.12.0", "device": "cpu", "devices": ["x86_64"], "precision": "32-true",
}  # fmt: skip
END = {"event": "end", "time": 1.8e9 + 60, "step": 100, "planned_steps": 100, "how": "done"}


def write_run(folder: Path, metrics: str | None = None, config: str = CONFIG, history: Any = (START, END)) -> Path:
    """A run's folder with a config, a history, a checkpoint (which nobody reads) and what was logged."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in history))
    (folder / "checkpoints" / "step-100.ckpt").touch()
    if metrics is None:
        metrics = table(train_loss=lambda step: 16 - step / 10, train_lr=lambda step: 0.002)
    (folder / "metrics.csv").write_text(metrics)
    return folder


def table(steps: int = 100, **columns: Any) -> str:
    """A metrics.csv: of each column a function of the step; ``train_loss`` is ``train/loss``."""
    lines = [",".join(["step", *(name.replace("_", "/", 1) for name in columns)])]
    for step in range(steps):
        lines.append(",".join([str(step), *(str(value(step)) for value in columns.values())]))
    return "\n".join(lines) + "\n"
