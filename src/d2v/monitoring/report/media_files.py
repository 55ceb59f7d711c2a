"""What lies in a run's folder ``media``: pictures, tokens with their masks, spectra."""

import base64
import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from d2v import metrics
from d2v.monitoring.report.markup import Markup, Section, chip, element, joined, titled
from d2v.monitoring.report.run_record import RunRecord

_STEP = re.compile(r"step-(\d+)")
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_DRAWN_BY_THE_PAGE = {"curves.png"}
_WIDEST, _QUALITY = 1400, 80
_BUDGET = 1_300_000  # bytes of all pictures of a page: a page stays below 3 MB
_MOST_STEPS = 5
_MOST_DIRECTIONS, _LEAST_SHARE = 200, 1e-8  # below are rounding errors


@dataclass
class _Shown:
    """One kind of media of one encoder of one run, by step."""

    title: str
    files: dict[int | None, Path] = field(default_factory=dict)

    def chosen(self) -> list[int | None]:
        """The last step, the first, and some between, oldest first."""
        steps = sorted(self.files, key=lambda step: -1 if step is None else step)
        if len(steps) <= _MOST_STEPS:
            return steps
        spread = [steps[round(number * (len(steps) - 1) / (_MOST_STEPS - 1))] for number in range(_MOST_STEPS)]
        return list(dict.fromkeys(spread))


@dataclass
class _Budget:
    """How much the pictures of a page may still take."""

    left: int = _BUDGET
    left_out: int = 0

    def address(self, path: Path) -> str | None:
        """A picture as an address that holds it; None: it is too much, or cannot be read."""
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            self.left_out += 1
            return None
        picture.thumbnail((_WIDEST, _WIDEST * 4))
        file = io.BytesIO()
        picture.save(file, "webp", quality=_QUALITY)
        text = base64.b64encode(file.getvalue()).decode()
        if len(text) > self.left:
            self.left_out += 1
            return None
        self.left -= len(text)
        return f"data:image/webp;base64,{text}"


def media(runs: Sequence[RunRecord]) -> Section:
    """What the models see, the newest first to get a place."""
    budget = _Budget()
    shown = [_shown(run) for run in runs]
    addresses: dict[Path, str | None] = {}
    for newest in (True, False):
        for kinds in shown:
            for kind in kinds:
                steps = kind.chosen()
                for step in reversed(steps[-1:] if newest else steps[:-1]):
                    path = kind.files[step]
                    if path.suffix in _PICTURES:
                        addresses[path] = budget.address(path)
    blocks: list[object] = []
    for index, (run, kinds) in enumerate(zip(runs, shown, strict=True)):
        figures = list(filter(None, (_figure(kind, addresses) for kind in kinds)))
        if len(runs) > 1:
            blocks.append(element("h3", chip(index, run.name)))
        if not figures:
            figures = [element("p", "The run's folder holds none (MediaCallback draws them while it trains).")]
        blocks.append(element("div", *figures, class_="gallery"))
    if budget.left_out:
        told = f"{budget.left_out} more pictures lie in the folder media of the runs."
        blocks.append(element("p", told, class_="note"))
    return Section("media", "What the model sees", joined(blocks))


def _shown(run: RunRecord) -> list[_Shown]:
    """The kinds of media of a run: first those of the encoders, then whatever pictures lie there."""
    kinds: dict[str, _Shown] = {}
    titles = metrics.media_titles()
    del titles[metrics.SPECTRUM]  # is drawn among the curves
    for path in sorted((run.folder / "media").rglob("*")):
        found = _STEP.fullmatch(path.parent.name)
        step = int(found[1]) if found else None
        kind, _, encoder = path.stem.partition("-")
        title = titles.get(f"media/{kind}")
        if step is not None and title is not None:
            title = titled(title, encoder)
            kinds.setdefault(title, _Shown(title)).files[step] = path
        elif path.suffix.lower() in _PICTURES and path.name not in _DRAWN_BY_THE_PAGE:
            name = str(path.relative_to(run.folder))
            kinds[name] = _Shown(name, {step: path})
    order = list(titles.values())
    return sorted(kinds.values(), key=lambda kind: _place(kind.title, order))


def _place(title: str, order: Sequence[str]) -> tuple[str, int]:
    base, _, encoder = title.partition(" · ")
    if base in order:
        return encoder, order.index(base)
    return "~", 0  # behind all others


def _figure(kind: _Shown, addresses: Mapping[Path, str | None]) -> Markup | None:
    """The last step, and buttons for those before; None: there is nothing to see."""
    views: list[tuple[int | None, Markup]] = []
    for step in kind.chosen():
        path = kind.files[step]
        if path.suffix == ".json":
            view = _tokens(path)
        elif addresses.get(path):
            view = element("img", src=addresses[path], alt=kind.title, loading="lazy")
        else:
            continue
        views.append((step, view))
    if not views:
        return None
    buttons, panes = [], []
    for number, (step, view) in enumerate(views):
        is_last = number == len(views) - 1
        if len(views) > 1:
            buttons.append(element("button", f"step {step:,}", type="button", aria_pressed=str(is_last).lower()))
        panes.append(element("div", view, class_="view", hidden=not is_last))
    step, told = views[-1][0], Markup()
    if step is not None and len(views) == 1:
        told = element("small", f"step {step:,}")
    caption = element("figcaption", kind.title, " ", told, element("span", *buttons, class_="steps"))
    return element("figure", caption, *panes, class_="media")


def _tokens(path: Path) -> Markup:
    """Texts, with what is masked marked."""
    lines = []
    for text in _read(path).get("texts") or ():
        words: list[object] = []
        for token, is_masked in text:
            if is_masked:
                token = element("mark", token)
            words.append(token)
        lines.append(element("p", *words, class_="tokens"))
    return joined(lines)


def spectra(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Panels of how much of the variance of features each direction has, as :func:`panels.drawn_data` makes them."""
    by_title: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for index, run in enumerate(runs):
        for encoder, files in _spectrum_files(run).items():
            steps = sorted(files)
            chosen = {steps[-1]: "last step"}
            if len(runs) == 1:
                chosen = {step: f"step {step:,}" for step in (steps[0], steps[len(steps) // 2], steps[-1])}
            for step, label in chosen.items():
                for name, shares in _read(files[step]).items():
                    title = titled(name, encoder)
                    by_title[title].append({"run": index, "label": label, "encoder": "", **_points(shares)})
    panels = []
    for title, lines in by_title.items():
        panels.append({"title": title, "unit": "share of the variance", "x": "direction", "log": True, "lines": lines})
    return panels


def _spectrum_files(run: RunRecord) -> dict[str, dict[int, Path]]:
    """By encoder and step."""
    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in (run.folder / "media").glob("step-*/spectrum*.json"):
        found = _STEP.fullmatch(path.parent.name)
        if found:
            files[path.stem.partition("-")[2]][int(found[1])] = path
    return files


def _points(shares: Sequence[float]) -> dict[str, Any]:
    """At most so many directions, closer together at the first ones."""
    last = len(shares) - 1
    numbers = sorted({round((last + 1) ** (k / _MOST_DIRECTIONS)) - 1 for k in range(_MOST_DIRECTIONS + 1)})
    kept = [number for number in numbers if shares[number] > _LEAST_SHARE]
    return {"x": [number + 1 for number in kept], "y": [shares[number] for number in kept], "bad": []}


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of ours; of half a one nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return content
