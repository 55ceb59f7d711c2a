"""The model card of an exported folder."""

from collections.abc import Iterable, Mapping
from typing import Any

from d2v.checkpoints.opening import Checkpoint

_LICENCES = {"CC-BY-NC": "cc-by-nc-4.0", "Apache 2.0": "apache-2.0", "MIT": "mit"}
"""Beginnings of licences as we write them, and what the hub calls them."""


def model_card(name: str, checkpoint: Checkpoint, library: str, use: str) -> str:
    """``README.md``, with what the hub reads at its head.

    Args:
        name: Of the model.
        checkpoint: What was exported.
        library: That reads the folder, as the hub calls it.
        use: Markdown that says how.
    """
    trunk = checkpoint.encoder().recipe["trunk"]
    sizes = table({key: trunk[key] for key in ("width", "depth", "num_heads")})
    notes = bullets(checkpoint.config.get("notes", []))
    licence = "chosen by who trained them"
    if checkpoint.encoder().licence:
        licence = f"{checkpoint.encoder().licence}. d2v's own licence does not extend to them"
    return f"""---
library_name: {library}
license: {_licence_id(checkpoint.encoder().licence or "")}
tags:
- data2vec
---

# {name}

{checkpoint.origin}; exported by d2v from `{checkpoint.path.name}`.

Licence of the weights: {licence}.

{sizes}

Notes:

{notes}

## Use

{use}
"""


def table(sizes: Mapping[str, Any]) -> str:
    """Markdown of a table of sizes."""
    rows = [f"| {key} | {value} |" for key, value in sizes.items()]
    return "\n".join(["| size | |", "| --- | --- |", *rows])


def bullets(notes: Iterable[str]) -> str:
    """Markdown of a list of notes."""
    return "\n".join(f"- {note}" for note in notes) or "- none"


def _licence_id(licence: str) -> str:
    """The hub's name of a licence, "other" if it is not known. Where two are named, the narrower stands first."""
    if not licence.startswith("as its model card says"):
        for words, name in _LICENCES.items():
            if words in licence:
                return name
    return "other"
