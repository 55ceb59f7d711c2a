"""The model card of an exported folder."""

from collections.abc import Iterable, Mapping
from typing import Any

from d2v.checkpoints.opening import Checkpoint

_LICENCES = {"CC-BY-NC": "cc-by-nc-4.0", "Apache 2.0": "apache-2.0", "MIT": "mit"}
"""How licences begin as we write them, and the hub's names."""


def model_card(name: str, checkpoint: Checkpoint, library: str, use: str) -> str:
    """Content of ``README.md``, which begins with metadata for the hub.

    Args:
        name: Name of the model.
        checkpoint: The exported checkpoint.
        library: The hub's name of the library that reads the folder.
        use: Markdown about the use of the model.
    """
    trunk = checkpoint.encoder().recipe["trunk"]
    sizes = table({key: trunk[key] for key in ("width", "depth", "num_heads")})
    notes = bullets(checkpoint.config.get("notes", []))
    licence = "chosen by whoever trained them"
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
    """The hub's name of a licence, or "other". If two licences are named, the narrower one stands first."""
    if not licence.startswith("as its model card says"):
        for words, name in _LICENCES.items():
            if words in licence:
                return name
    return "other"
