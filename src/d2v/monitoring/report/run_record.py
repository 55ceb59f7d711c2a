"""What a run's folder tells."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from d2v.errors import UserError
from d2v.metrics import KNN_TOP1, LINEAR_TOP1
from d2v.monitoring.history_file import SKIPPED, read_history
from d2v.monitoring.logged_curves import LoggedCurve, read_curves
from d2v.service_keys import hidden_keys
from d2v.verdicts import FILE as VERDICTS

CONFIG, METRICS, LOCK = "config.yaml", "metrics.csv", ".lock"
_BEFORE_RESUME = "config-until-*.yaml"


@dataclass(frozen=True)
class RunRecord:
    """One run, read from its folder."""

    name: str
    """Its folder's, with as many of those above it as tell it from the other runs of a page."""
    folder: Path
    """As the user has named it."""
    config: dict[str, Any]
    """Without keys of services."""
    earlier_configs: Mapping[int, dict[str, Any]]
    """Those that held until a step, where the run went on with another."""
    curves: Mapping[str, LoggedCurve]
    history: Sequence[Mapping[str, Any]]
    """See :func:`d2v.monitoring.history_file.read_history`."""
    verdicts: Sequence[Mapping[str, Any]]
    """What the monitor has found: ``step``, ``fault``, ``what``, ``why``, ``cure``."""
    skipped: Sequence[str]
    checkpoints: Sequence[Path]
    """Oldest first."""
    trains_now: bool
    """Whether a process has the run's lock."""
    last_written: float
    """When, in seconds since 1970."""
    problems: Sequence[str]
    """What of the folder could not be read."""

    @cached_property
    def starts(self) -> list[Mapping[str, Any]]:
        """Each start, with its environment."""
        return [event for event in self.history if event["event"] == "start"]

    @cached_property
    def steps_done(self) -> int:
        """Optimizer steps, as far as they are known."""
        done = [0]
        for event in self.history:
            done.append(int(event.get("step") or 0))
        for name, curve in self.curves.items():
            counts_from_zero = not name.startswith("probe/")  # as Lightning does, and probes do not
            for steps in (curve.steps, curve.not_finite):
                if len(steps):
                    done.append(int(steps[-1]) + counts_from_zero)
        return max(done)

    @cached_property
    def steps_planned(self) -> int | None:
        """None: nobody has written it down."""
        for event in reversed(self.history):
            if event.get("planned_steps"):
                return int(event["planned_steps"])
        limit = (self.config.get("trainer") or {}).get("max_steps")
        return limit if isinstance(limit, int) and limit > 0 else None

    @cached_property
    def state(self) -> str:
        """What has become of it: training now, done, stopped, failed, not ended."""
        if self.trains_now:
            return "training now"
        last = self.history[-1] if self.history else {}
        if last.get("event") == "end":
            return str(last.get("how"))
        if not self.history and self.steps_planned and self.steps_done >= self.steps_planned:
            return "done"
        return "not ended: its process was killed, or is on another machine"

    @property
    def why_ended(self) -> str:
        """What the last end said, if it was no good one."""
        return str(self.history[-1].get("why", "")) if self.history else ""

    @cached_property
    def encoders(self) -> list[str]:
        """Names of the encoders that a joint run trains; none of any other."""
        media = ((self.config.get("model") or {}).get("init_args") or {}).get("media")
        return list(media) if isinstance(media, dict) else []

    @property
    def is_finetuning(self) -> bool:
        """Whether it trains something for a task, on labels."""
        return ".finetuning." in str((self.config.get("model") or {}).get("class_path"))

    def probes(self) -> dict[str, LoggedCurve]:
        """Curves of probes by the names of their metrics."""
        found = {}
        for name, curve in self.curves.items():
            if name.startswith((KNN_TOP1, LINEAR_TOP1)) and len(curve.steps):
                found[name] = curve
        return found


def read_runs(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Read runs from their folders.

    Raises:
        UserError: One of them is no folder of a run.
    """
    paths = [_folder_of_run(folder) for folder in folders]
    names = _names(paths)
    return [_read_run(name, path) for name, path in zip(names, paths, strict=True)]


def _folder_of_run(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{folder}: there is no such folder; give a run's, such as runs/NAME")
    if not _is_run(path):
        inside = sorted(str(below) for below in path.iterdir() if below.is_dir() and _is_run(below))
        hint = "give a run's folder, such as runs/NAME"
        if inside:
            hint = f"it holds runs: give one or more of them, such as {inside[0]}"
        raise UserError(f"{folder}: is no run's folder, which has {CONFIG} or {METRICS}; {hint}")
    return path


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / METRICS).is_file()


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return names


def _read_run(name: str, path: Path) -> RunRecord:
    problems: list[str] = []
    curves: dict[str, LoggedCurve] = {}
    if (path / METRICS).is_file():
        try:
            curves = read_curves(path / METRICS)
        except (UserError, OSError) as error:
            problems.append(str(error))
    earlier = {}
    for file in path.glob(_BEFORE_RESUME):
        step = file.stem.rpartition("-")[2]
        if step.isdigit():
            earlier[int(step)] = _read_config(file, problems)
    verdicts = []
    for line in _lines(path / VERDICTS, problems):
        try:
            verdict = json.loads(line)
        except ValueError:  # half a line of a process that was killed
            continue
        if isinstance(verdict, dict):
            verdicts.append(verdict)
    checkpoints = [file for file in (path / "checkpoints").glob("*.ckpt") if file.is_file()]
    written = [file.stat().st_mtime for file in [path / CONFIG, path / METRICS, *checkpoints] if file.is_file()]
    return RunRecord(
        name=name,
        folder=path,
        config=_read_config(path / CONFIG, problems),
        earlier_configs=dict(sorted(earlier.items())),
        curves=curves,
        history=list(read_history(path)),
        verdicts=verdicts,
        skipped=_lines(path / SKIPPED, problems),
        checkpoints=sorted(checkpoints, key=lambda file: file.stat().st_mtime),
        trains_now=_is_locked(path / LOCK),
        last_written=max(written, default=time.time()),
        problems=problems,
    )


def _lines(path: Path, problems: list[str]) -> list[str]:
    if not path.is_file():
        return []
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return []


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"{path}: cannot be read ({' '.join(str(error).split())})")
        return {}
    if not isinstance(config, dict):
        return {}
    return dict(hidden_keys(config))


def _is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the lock of a run's folder."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # the folder is not ours to write to
        return False
    lock.release()
    return False
