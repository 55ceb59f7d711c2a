"""What was published: the checkpoints, and the settings of their runs, which those of a file are compared with."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def differences(settings: Mapping[str, Any], layout: str, width: int = 768) -> list[str]:
    """A note that names the settings of a checkpoint that are not the published ones; what it does not set is left out.

    Args:
        settings: Of the checkpoint; those of a section below under "section.key".
        layout: Such as "v2_vision".
        width: Of the model, which tells the published one; one that was not published is compared with Base.
    """
    recipe = _recipe(layout, width)
    other = []
    for key, value in recipe["settings"].items():
        said = settings.get(key)
        if said is not None and not _same(said, value):
            other.append(f"{key}: the checkpoint says {said}, the published recipe {value}")
    if not other:
        return []
    return [f"{'; '.join(other)}. The checkpoint's values are taken (the recipe is {recipe['source']})"]


def settings_of(layout: str, width: int, modality: str) -> dict[str, Any]:
    """Section ``model`` of the published run, for a checkpoint of 2.0 that has none; ``modality`` as fairseq's."""
    model: dict[str, Any] = {}
    section: dict[str, Any] = {}
    for key, value in _recipe(layout, width)["settings"].items():
        name = key.removeprefix(f"{modality}.")
        (model if name == key else section)[name] = value
    return {**model, "modalities": {modality: section}}


def published_checkpoints() -> str:
    """The list of official checkpoints: where they are, their names, what each is, under which licence."""
    lines: list[str] = []
    for place in _read("published_checkpoints.yaml"):
        lines += [place["title"], f"licence: {place['licence']}", ""]
        for name, text in place["models"].items():
            lines.append(f"  {name:<46} {text}")
        lines.append("")
    lines.append("Only hf:// is fetched by d2v; download other files first, then: d2v import FILE --output DIR")
    lines.append("Names and licences are those of their READMEs and model cards in 2026; none was fetched to check.")
    return "\n".join(lines)


def flat(settings: Mapping[str, Any], prefix: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a section below."""
    return {**settings, **{f"{prefix}.{key}": value for key, value in section.items()}}


def _recipe(layout: str, width: int) -> Any:
    by_width = {recipe["width"]: recipe for recipe in _read("published.yaml")[layout]}
    return by_width.get(width, by_width[768])


@cache
def _read(name: str) -> Any:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _same(said: Any, published: Any) -> bool:
    if isinstance(said, (bool, int, float)) and isinstance(published, (bool, int, float)):
        return abs(said - published) <= 1e-9
    return bool(said == published)
