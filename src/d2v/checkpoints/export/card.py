"""The model card of an exported folder."""

from d2v.checkpoints.export.source import ExportSource

_LICENCES = {"CC-BY-NC": "cc-by-nc-4.0", "Apache 2.0": "apache-2.0", "MIT": "mit"}


def model_card(name: str, source: ExportSource, library: str, use: str) -> str:
    """``README.md``, with what the hub reads at its head.

    Args:
        name: Of the model.
        source: What was exported.
        library: That reads the folder, as the hub calls it.
        use: Markdown that says how.
    """
    sizes = "\n".join(f"| {key} | {source.settings[key]} |" for key in ("width", "depth", "num_heads"))
    notes = "\n".join(f"- {note}" for note in source.config.get("notes", [])) or "- none"
    licence = "chosen by who trained them"
    if source.licence:
        licence = f"{source.licence}. d2v's own licence does not extend to them"
    return f"""---
library_name: {library}
license: {_licence_id(source.licence)}
tags:
- data2vec
---

# {name}

{source.origin}; exported by d2v from `{source.path.name}`.

Licence of the weights: {licence}.

| size | |
| --- | --- |
{sizes}

Notes:

{notes}

## Use

{use}
"""


def _licence_id(licence: str | None) -> str:
    """By the first that is named, which of a doubtful one is the narrower; of one that nobody gave, none."""
    if licence is not None and licence.startswith("as its model card says"):
        return "other"
    return next((name for words, name in _LICENCES.items() if words in (licence or "")), "other")
