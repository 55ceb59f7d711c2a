"""Curves as a run has logged them: the columns of its ``metrics.csv`` over the optimizer steps."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
from jaxtyping import Float64

from d2v.errors import UserError

STEP = "step"


@dataclass(frozen=True)
class LoggedCurve:
    """One metric of a run."""

    steps: Float64[np.ndarray, "n"]
    """Ascending, each once."""
    values: Float64[np.ndarray, "n"]
    """Finite ones."""
    not_finite: Float64[np.ndarray, "k"]
    """Steps at which what was logged is no finite number."""


def read_curves(metrics_csv: Path) -> dict[str, LoggedCurve]:
    """Steps and values of each column that has any; of several values at one step the last.

    What a process that was killed left behind, half a line or one without a step, is left out.

    Args:
        metrics_csv: As Lightning's CSVLogger writes it: a ``step`` column and sparse others.

    Raises:
        UserError: The file has no step column.
    """
    content = metrics_csv.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return {}
    header = content.partition(b"\n")[0].decode("utf-8", "replace")
    names = next(csv.reader([header]), [])
    if STEP not in names:
        raise UserError(f"{metrics_csv}: there is no column `step`; is it a metrics.csv of a run?")
    if content.count(b"\n") == 1:  # Arrow takes no table without rows
        return {}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
            check_utf8=False,
        ),
    )
    steps, is_step = _numbers(table[STEP])
    is_step &= np.isfinite(steps)
    curves = {}
    for name in names:
        values, is_there = _numbers(table[name])
        is_there &= is_step
        if name != STEP and is_there.any():
            curves[name] = _curve(steps[is_there], values[is_there])
    return curves


def _numbers(column: pa.ChunkedArray) -> tuple[Float64[np.ndarray, "n"], np.ndarray]:
    """The numbers of a column, and where there is one."""
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:  # something in it is no number
        numbers = pa.chunked_array([pa.array([_number(text) for text in column.to_pylist()], pa.float64())])
    is_there = numbers.is_valid().to_numpy()
    return numbers.fill_null(0.0).to_numpy(), np.array(is_there)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _curve(steps: Float64[np.ndarray, "n"], values: Float64[np.ndarray, "n"]) -> LoggedCurve:
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    is_last = np.append(steps[1:] != steps[:-1], True)
    steps, values = steps[is_last], values[is_last]
    finite = np.isfinite(values)
    return LoggedCurve(steps[finite], values[finite], steps[~finite])
