"""The folder of a demo, which may be made anew only if d2v made it."""

import json
from pathlib import Path
from typing import Any

from d2v.errors import UserError

_MARKER = "demo.json"
_KIND = "demo"


def read_marker(root: Path, kind: str, keys: set[str]) -> dict[str, Any] | None:
    """What an earlier call of the same demo noted in its folder.

    Args:
        root: the folder.
        kind: of the demo: "vision", "speech".
        keys: what this demo notes; the kind itself is missing in folders of old.

    Returns:
        These keys and their values; None if the folder is new or empty.

    Raises:
        UserError: the folder holds something else, another demo for instance.
    """
    marker = root / _MARKER
    if marker.is_file():
        try:
            stored = json.loads(marker.read_bytes())
        except ValueError:
            stored = None
        if isinstance(stored, dict) and stored.pop(_KIND, kind) == kind and set(stored) == keys:
            return stored
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is no demo data of {kind}. Choose a new or an empty folder.")
    return None


def write_marker(root: Path, kind: str, values: dict[str, Any]) -> None:
    """Note in the folder what is in it; all in one step, so that no half of it is ever there."""
    part = root / f"{_MARKER}.part"
    part.write_text(json.dumps({_KIND: kind, **values}))
    part.replace(root / _MARKER)
