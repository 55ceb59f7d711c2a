"""What `d2v bench` found, for people: a table, a chart, and beside an earlier result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.errors import UserError
from d2v.whole_files import whole_text_file

RESULT, CHART = "bench.json", "bench.png"

_SETTINGS = ("device", "threads", "precision", "torch", "config", "overrides", "data", "batch")
"""Two results that differ in one of these were not measured on the same thing."""


class StepResult(dict[str, Any]):
    """What was measured, by name; its text is a table."""

    def __str__(self) -> str:
        step, batch = self["step_seconds"], self["batch"]
        lines = [
            f"device      {self['device']}, {self['precision']}, torch {self['torch']}, {self['threads']} threads",
            f"batch       {batch}",
            f"step        {_seconds(step)}, {_seconds(self['step_seconds_least'])} to "
            f"{_seconds(self['step_seconds_most'])} ({self['steps']} steps)",
        ]
        for name, value in self.items():
            if name.endswith("_per_second"):
                lines.append(f"speed       {value:,.4g} {name.removesuffix('_per_second').replace('_', ' ')} a second")
        if self["peak_memory_gb"] is not None:
            lines.append(f"memory      {self['peak_memory_gb']:.2f} GB at most")
        if self["flops_per_step"] is None:
            lines.append("operations  unknown: a part of this recipe has no count of them")
        else:
            lines.append(
                f"operations  {self['flops_per_step']:.4g} a step; {self['mfu']:.1%} of the "
                f"{self['ceiling_flops'] / 1e12:.4g} TFLOP/s that products of matrices reach here"
            )
        if self["kernels"] is not None:
            lines.append(
                f"GPU         {self['kernels']:,} kernels a step, idle {self['idle_share']:.1%}, "
                f"{self['synchronisations']} synchronisations"
            )
        lines.append("parts")
        for part, seconds in self["parts"].items():
            lines.append(f"  {part:<10}{_seconds(seconds):>10}  {seconds / step:6.1%}")
        for name, peer in self.get("peers", {}).items():
            lines.append(
                f"peer        {name}: {_seconds(peer['step_seconds'])} against {_seconds(peer['our_step_seconds'])} of "
                f"ours, {peer['peer_over_ours']:.2f} times ({peer['least_ratio']:.2f} to {peer['most_ratio']:.2f})"
            )
        return "\n".join(lines)


def comparison(result: Mapping[str, Any], other: Mapping[str, Any], name: str) -> str:
    """Both results side by side, the other one first, and in which settings they differ."""
    lines = []
    for key in _SETTINGS:
        if other.get(key) != result[key]:
            lines.append(f"differs     {key}: {other.get(key)} there, {result[key]} here")
    pairs = {"step": (other["step_seconds"], result["step_seconds"])}
    for part, seconds in result["parts"].items():
        pairs[f"  {part}"] = (other["parts"].get(part, 0.0), seconds)
    lines.append(f"{'':<12}{'there':>10}{'here':>10}  there / here   ({name})")
    for row, (there, here) in pairs.items():
        lines.append(f"{row:<12}{_seconds(there):>10}{_seconds(here):>10}  {there / here if here else 0:.2f}")
    for key in ("mfu", "peak_memory_gb", "samples_per_second"):
        if other.get(key) and result[key]:
            lines.append(f"{key:<24}{other[key]:>10.4g}{result[key]:>10.4g}  {other[key] / result[key]:.2f}")
    return "\n".join(lines)


def read_result(path: Path) -> dict[str, Any]:
    """An earlier result: ``bench.json``, or the saved output of the command, whose last line it is.

    Raises:
        UserError: There is none in the file.
    """
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        result = json.loads(lines[-1])
        for seconds in (result["step_seconds"], *result["parts"].values()):
            float(seconds)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "its last line is no result of `d2v bench`"
        raise UserError(f"--compare {path}: {reason}; give the bench.json of a run with --output FOLDER") from error
    return result


def make_folder(folder: Path) -> None:
    """Make the folder of a result, before minutes are spent on it.

    Raises:
        UserError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be made ({error.strerror or error}); give another folder"
        ) from error


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the result and a chart of its parts into a folder."""
    with whole_text_file(folder / RESULT) as file:
        file.write(json.dumps(result) + "\n")
    _draw(result, folder / CHART)
    return [folder / RESULT, folder / CHART]


def _draw(result: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    parts = result["parts"]
    bars = axes.barh(list(parts), [1000 * seconds for seconds in parts.values()])
    axes.bar_label(bars, [f"{seconds / result['step_seconds']:.0%}" for seconds in parts.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.1)  # room for the labels
    axes.set_xlabel("milliseconds a step")
    title = f"{' '.join(result['config'])}: {_seconds(result['step_seconds'])} a step"
    if result["mfu"] is not None:
        title += f", {result['mfu']:.0%} of the matrix ceiling"
    axes.set_title(f"{title}\n{result['device']}, {result['precision']}, torch {result['torch']}", fontsize=10)
    figure.savefig(path, dpi=120)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
