"""`d2v import`: a checkpoint of the official implementations, in a form that d2v loads, without their code."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.errors import UserError

if TYPE_CHECKING:
    from d2v.checkpoints.layout import Imported

SUMMARY = "turn a checkpoint of fairseq or data2vec_vision (BEiT) into a folder that d2v loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="fairseq .pt or data2vec_vision .pth checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for the imported model")


def run(args: argparse.Namespace) -> None:
    """Import ``args.source`` into ``args.output``.

    Raises:
        UserError: The source is no checkpoint that can be imported, or the output cannot be written.
    """
    import torch

    import d2v
    from d2v.checkpoints import folder, recognise
    from d2v.checkpoints.layout import build_method
    from d2v.checkpoints.unpickle import load_untrusted

    source, output = args.source.expanduser(), args.output.expanduser()
    folder.require_empty(output)
    if source.is_dir():
        raise UserError(f"{source}: is a folder; give the checkpoint file in it")
    content = load_untrusted(source)
    try:
        imported = recognise.convert(content)
        with torch.device("meta"):  # shapes are all that is needed of it
            method = build_method(imported.method)
        folder.require_fit(method, imported.weights)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    with source.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    config = {
        "d2v_version": d2v.__version__,
        "method": imported.method,
        "ema": imported.ema,
        "source": {"layout": imported.layout, "licence": imported.licence, "file": source.name, "sha256": sha256},
        "left_out": imported.left_out,
        "notes": imported.notes,
    }
    folder.write_folder(output, imported.weights, config, _model_card(output.name, imported, source.name, sha256))
    parameters = sum(parameter.numel() for parameter in method.student.parameters())
    print(_summary(imported, parameters, output))


def _sizes(imported: "Imported") -> dict[str, Any]:
    student = imported.method["student"]["init_args"]
    prenet = student.get("prenet_depth", 0)
    return {
        "width": student["width"],
        "blocks": f"{prenet} + {student['depth']}" if prenet else student["depth"],
        "heads": student["num_heads"],
        "patch": student["patch_size"],
        "image": student["image_size"],
    }


def _parts(imported: "Imported") -> str:
    names = [part for part in ("student", "teacher", "head") if any(k.startswith(f"{part}.") for k in imported.weights)]
    return ", ".join(names)


def _summary(imported: "Imported", parameters: int, output: Path) -> str:
    lines = [
        f"{imported.layout}; licence: {imported.licence}",
        "encoder: "
        + ", ".join(f"{name} {value}" for name, value in _sizes(imported).items())
        + f"; {parameters / 1e6:.1f} M parameters",
        f"imported: {_parts(imported)}",
    ]
    if imported.left_out:
        lines.append(f"left out: {', '.join(imported.left_out)}")
    lines += [f"note: {note}" for note in imported.notes]
    lines.append(f'written to {output}; use it with d2v.load("{output}")')
    return "\n".join(lines)


def _model_card(name: str, imported: "Imported", file: str, sha256: str) -> str:
    width = _sizes(imported)["width"]
    sizes = "\n".join(f"| {key} | {value} |" for key, value in _sizes(imported).items())
    left_out = ", ".join(f"`{key}`" for key in imported.left_out) or "nothing"
    notes = "\n".join(f"- {note}" for note in imported.notes) or "- none"
    return f"""# {name}

{imported.layout}, imported by d2v from `{file}` (sha256 `{sha256}`).

Licence of the weights: {imported.licence}. d2v's own licence does not extend to them.

| size | |
| --- | --- |
{sizes}

Imported: {_parts(imported)}. Left out: {left_out}.

Notes:

{notes}

## Use

```python
import d2v
encoder = d2v.load("{name}")  # or weights="teacher"
features = encoder.embed(pixels)  # normalised pixels [B, 3, H, W] -> [B, {width}]
```
"""
