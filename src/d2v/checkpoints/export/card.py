"""The model card of an exported folder."""

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
    sizes = "\n".join(f"| {key} | {trunk[key]} |" for key in ("width", "depth", "num_heads"))
    notes = "\n".join(f"- {note}" for note in checkpoint.config.get("notes", [])) or "- none"
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

| size | |
| --- | --- |
{sizes}

Notes:

{notes}

## Use

{use}
"""


def _licence_id(licence: str) -> str:
    """The hub's name of a licence, "other" if it is not known. Where two are named, the narrower stands first."""
    if not licence.startswith("as its model card says"):
        for words, name in _LICENCES.items():
            if words in licence:
                return name
    return "other"
