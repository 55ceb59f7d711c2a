"""Writes the page: everything that it needs is inside."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from d2v.errors import UserError
from d2v.monitoring.report.how_made import configs, environment, how_to_continue, skipped
from d2v.monitoring.report.markup import Section, data_element, element, escaped, joined
from d2v.monitoring.report.media_files import media, spectra
from d2v.monitoring.report.panels import drawn_data, filled_panels, num_thinned
from d2v.monitoring.report.plots import curves, spectrum
from d2v.monitoring.report.run_record import RunRecord, read_runs
from d2v.monitoring.report.sections import overview, probes, verdicts, when
from d2v.whole_files import write_text

_TEMPLATE = files("d2v.monitoring.report") / "template"
_ONE, _SEVERAL = "report.html", "comparison.html"


@dataclass(frozen=True)
class Report:
    """What :func:`report` has written."""

    path: Path
    runs: list[str]
    """Their names."""
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.path}: {', '.join(self.runs)}; {self.num_bytes / 1e6:.1f} MB, open it in a browser"


def report(runs: str | Path | Sequence[str | Path], output: str | Path | None = None) -> Report:
    """Write one HTML file about runs, from what lies in their folders: it needs no network and no other file.

    Args:
        runs: The folder of a run, or of several to compare; they may still be training.
        output: The file; None: ``report.html`` in the run's folder, or of several ``comparison.html`` in the first's.

    Raises:
        UserError: A folder is none of a run, or the file cannot be written.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if not folders:
        raise UserError("RUN: name at least one run's folder")
    records = read_runs(folders)
    path = records[0].folder / (_ONE if len(records) == 1 else _SEVERAL)
    if output is not None:
        path = Path(output).expanduser()
    if path.is_dir():
        raise UserError(f"--output {path}: is a folder; name a file in it")
    text = page(records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text, errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --output") from error
    return Report(path, [run.name for run in records], len(text.encode(errors="replace")))


def page(runs: Sequence[RunRecord]) -> str:
    """The text of the page."""
    panels = filled_panels(runs)
    drawn, directions = drawn_data(panels), spectra(runs)
    titles = [panel["title"] for panel in directions]
    sections = [
        overview(runs),
        verdicts(runs),
        Section("curves", "Curves", curves(runs, panels, num_thinned(panels, drawn))),
        probes(runs),
        Section("spectrum", "Spectrum of the features", spectrum(len(panels), titles)),
        media(runs),
        configs(runs),
        skipped(runs),
        environment(runs),
        how_to_continue(runs),
    ]
    if all(run.is_finetuning for run in runs):
        sections = [one for one in sections if one.id not in ("probes", "spectrum")]
    data = {"panels": [*drawn, *directions], "runs": [run.name for run in runs], "resumed": _resumed(runs)}
    names = ", ".join(run.name for run in runs)
    contents = {
        "title": element("title", "d2v: ", names),
        "heading": escaped(names),
        "made": when(time.time()),
        "nav": joined(element("a", one.id.capitalize(), href=f"#{one.id}") for one in sections),
        "sections": joined(element("section", element("h2", one.title), one.content, id=one.id) for one in sections),
        "data": data_element("data", data),
        "uplot_style": (_TEMPLATE / "uplot" / "uPlot.min.css").read_text(encoding="utf-8"),
        "uplot": (_TEMPLATE / "uplot" / "uPlot.iife.min.js").read_text(encoding="utf-8"),
        "style": (_TEMPLATE / "page.css").read_text(encoding="utf-8"),
        "script": (_TEMPLATE / "page.js").read_text(encoding="utf-8"),
    }
    template = (_TEMPLATE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: contents[found[1]], template)


def _resumed(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Steps at which each run went on after an interruption."""
    steps = []
    for run in runs:
        later = [int(start.get("step") or 0) for start in run.starts[1:]]
        steps.append([step for step in later if step])
    return steps
