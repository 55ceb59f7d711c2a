"""Where configs are found: the working folder first, then those that ship with the package."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from d2v.errors import UserError

_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).resolve().parent / "configs"
"""Folder of the shipped configs: of the checkout when run from one, else inside the installed package."""


def find_config(name: str | Path) -> Path:
    """Path of a config given by path or by its name among the shipped ones (``v2/vision.yaml``).

    Raises:
        UserError: There is none; the message lists those with a similar name, or the recipes.
    """
    path = Path(name).expanduser()
    for candidate in (path, SHIPPED / path):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"--config {name}: is a folder; give a YAML file, such as a run's config.yaml")
    if path.is_absolute():
        raise UserError(f"--config {name}: no such file")
    shipped = sorted(str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*.yaml"))
    similar = [other for other in shipped if path.stem in other] or get_close_matches(str(name), shipped, cutoff=0.75)
    if not similar:  # the recipes; all names would fill a screen
        similar = [other for other in shipped if other.count("/") == other.startswith("v2/")]
        similar.append(f"and {len(shipped) - len(similar)} more in {SHIPPED}")
    raise UserError(
        f"--config {name}: neither a file here nor one that ships with d2v. There are: {', '.join(similar)}"
    )


def read_config(path: Path) -> dict[str, Any]:
    """Sections of a config file; an empty file has none.

    Raises:
        UserError: It cannot be read, or is no YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"--config {path}: {place}no valid YAML ({error.problem})") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: cannot be read ({error})") from error
    if content is not None and not isinstance(content, dict):
        raise UserError(f"--config {path}: holds a {type(content).__name__}, and no sections such as `model:`")
    return content or {}
