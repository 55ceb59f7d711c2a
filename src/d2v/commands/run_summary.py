"""What a run says at its end: what was learned, and what to type next."""

from pathlib import Path

import lightning as L

from d2v import metrics
from d2v.commands.run_metrics import METRICS
from d2v.errors import UserError
from d2v.finetuning.finetuning_module import FinetuningModule
from d2v.monitoring.logged_curves import LoggedCurve, read_curves

_MOST = 6
_NOT_LEARNING = (metrics.VAL_LOSS,)
"""A loss against a moving teacher rises and falls for reasons of its own."""


def summary(run_dir: Path, module: L.LightningModule) -> list[str]:
    """Lines for the terminal.

    Args:
        run_dir: The run's folder.
        module: What was trained.
    """
    lines = [f"learned: {_learned(run_dir)}"]
    for title, command in zip(("next:   ", *[" " * 8] * 3), _commands(run_dir, module), strict=False):
        lines.append(f"{title} {command}")
    return lines


def _learned(run_dir: Path) -> str:
    try:
        curves = read_curves(run_dir / METRICS)
    except (OSError, UserError):  # `trainer.logger: false` writes none
        curves = {}
    told = []
    for name, curve in curves.items():
        if name.startswith(("probe/", "val/")) and not name.startswith(_NOT_LEARNING) and len(curve.values):
            told.append(f"{name} {_first_and_last(curve)}")
    if not told:
        return "not measured on the way; `d2v probe` does, beside the same network untrained"
    more = f" and {len(told) - _MOST} more in {METRICS}" if len(told) > _MOST else ""
    return ", ".join(told[:_MOST]) + more


def _first_and_last(curve: LoggedCurve) -> str:
    first, last = curve.values[0], curve.values[-1]
    if len(curve.values) == 1:
        return f"{last:.4g}"
    return f"{first:.4g} -> {last:.4g}"


def _commands(run_dir: Path, module: L.LightningModule) -> list[str]:
    """Those that read a run of this kind."""
    report = f"d2v report {run_dir}"
    if isinstance(module, FinetuningModule):
        config = run_dir / "config.yaml"
        return [f"d2v predict --config {config} --ckpt_path {run_dir} --data.root FILES", report]
    names = [name for name in getattr(module, "encoders", ()) if name]
    which = f" --modality {names[0]}" if names else ""
    return [
        f"d2v probe --checkpoint {run_dir}{which} --data.root LABELLED",
        f"d2v embed --checkpoint {run_dir}{which} --input FILES --output features.parquet",
        report,
    ]
