"""`d2v import`: a checkpoint of the official implementations, in a form that d2v loads, without their code."""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.errors import UserError

if TYPE_CHECKING:
    from d2v.checkpoints.layout import Imported

LARGE = 200e6
"""Bytes above which reading takes long enough to say so."""
SHOWN = 12
"""Names of what is left out that are shown."""

_ASSETS = {"tokenizer.json": "tokenizer", "preprocessor_config.json": "mean and deviation of pixels"}

SUMMARY = "turn a checkpoint of fairseq, data2vec_vision (BEiT) or Hugging Face into a folder that d2v loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="fairseq .pt or data2vec_vision .pth checkpoint, a folder of Hugging Face, or hf://OWNER/NAME",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for the imported model")
    parser.add_argument(
        "--dict",
        type=Path,
        metavar="FILE",
        help="symbols of a fine-tuned recogniser (fairseq's dict.ltr.txt; looked for beside SOURCE)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of a fine-tuned classifier's classes, one a line, in the order of its outputs",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="tokenizer of a text encoder: a tokenizer.json, or a folder with GPT-2's encoder.json and vocab.bpe and "
        "with fairseq's dict.txt (looked for beside SOURCE, or in it if it is a folder)",
    )


def run(args: argparse.Namespace) -> None:
    """Import ``args.source`` into ``args.output``.

    Raises:
        UserError: The source is no checkpoint that can be imported, or the output cannot be written.
    """
    import torch

    import d2v
    from d2v.checkpoints import classifier_head, ctc_head, folder, hub
    from d2v.checkpoints.layout import build_method
    from d2v.official import recognise
    from d2v.official.tokenizer import find_tokenizer

    output = args.output.expanduser()
    folder.require_empty(output)
    source = hub.local_path(args.source)
    _announce(source)
    imported, files = recognise.read(source)
    imported = _with_classes(_with_symbols(imported, args.dict, source), args.classes, source)
    assets = {**imported.assets, **find_tokenizer(imported, args.tokenizer and args.tokenizer.expanduser(), source)}
    try:
        with torch.device("meta"):  # shapes are all that is needed of it
            method = build_method(imported.method)
        folder.require_fit(method, imported.weights)
        if imported.ctc is not None and imported.ctc.weight.shape[1] != method.student.width:
            raise UserError(f"the recogniser's head reads {imported.ctc.weight.shape[1]} features, not the encoder's")
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    sums = {file.name: _sha256(file) for file in files}
    origin: dict[str, Any] = {"layout": imported.layout, "licence": imported.licence}
    origin |= {"files": sums} if len(sums) > 1 else dict(zip(("file", "sha256"), next(iter(sums.items())), strict=True))
    config = {
        "d2v_version": d2v.__version__,
        "method": imported.method,
        "ema": imported.ema,
        "source": origin,
        "left_out": imported.left_out,
        "notes": imported.notes,
    }
    heads = {}
    if imported.ctc is not None:
        config["ctc"] = {"symbols": imported.ctc.symbols}
        heads = ctc_head.head_files(imported.ctc)
    if imported.classifier is not None:
        config["classifier"] = classifier_head.config_entry(imported.classifier)
        heads |= classifier_head.head_files(imported.classifier)
    card = _model_card(output.name, imported, assets, sums)
    folder.write_folder(output, imported.weights, config, card, heads, assets)
    parameters = sum(parameter.numel() for parameter in method.student.parameters())
    print(_summary(imported, assets, parameters, output))


def _announce(source: Path) -> None:
    """Say that a large file is going to be read."""
    if not source.exists():
        return
    files = list(source.iterdir()) if source.is_dir() else [source]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size > LARGE:
        print(f"reading {source} ({size / 1e9:.1f} GB) ...", file=sys.stderr, flush=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _with_classes(imported: "Imported", file: Path | None, source: Path) -> "Imported":
    """The same with the names that the user gives to its classes."""
    from d2v.checkpoints import classifier_head

    if file is None:
        return imported
    if imported.classifier is None:
        raise UserError(f"--classes {file}: {source} holds no classifier whose classes it could name; leave it out")
    return dataclasses.replace(imported, classifier=classifier_head.name_classes(imported.classifier, file))


def _with_symbols(imported: "Imported", dictionary: Path | None, source: Path) -> "Imported":
    """The same with the symbols of its recogniser's head; without the head if they cannot be known."""
    from d2v.checkpoints import ctc_head

    if imported.ctc is None:
        if dictionary is not None:
            raise UserError(
                f"--dict {dictionary}: {source} holds no recogniser whose symbols it could name; leave it out"
            )
        return imported
    return dataclasses.replace(imported, ctc=ctc_head.name_symbols(imported.ctc, dictionary, source, imported.notes))


def _sizes(imported: "Imported") -> dict[str, Any]:
    student = imported.method["student"]["init_args"]
    prenet = student.get("prenet_depth", 0)
    return {
        "width": student["width"],
        "blocks": f"{prenet} + {student['depth']}" if prenet else student["depth"],
        "heads": student["num_heads"],
        **imported.sizes,
    }


def _parts(imported: "Imported", assets: dict[str, str]) -> str:
    names = [part for part in ("student", "teacher", "head") if any(k.startswith(f"{part}.") for k in imported.weights)]
    if imported.ctc is not None:
        names.append(f"CTC head ({len(imported.ctc.weight)} symbols)")
    if imported.classifier is not None:
        outputs, score = len(imported.classifier.weights["proj.bias"]), imported.classifier.task == "regression"
        names.append("head of a score" if score else f"classifier ({outputs} classes)")
    names += [_ASSETS.get(name, name) for name in assets]
    return ", ".join(names)


def _summary(imported: "Imported", assets: dict[str, str], parameters: int, output: Path) -> str:
    lines = [
        f"{imported.layout}; licence: {imported.licence}",
        "encoder: "
        + ", ".join(f"{name} {value}" for name, value in _sizes(imported).items())
        + f"; {parameters / 1e6:.1f} M parameters",
        f"imported: {_parts(imported, assets)}",
    ]
    if imported.left_out:
        more = len(imported.left_out) - SHOWN
        lines.append(
            f"left out: {', '.join(imported.left_out[:SHOWN])}"
            + (f" and {more} more, which config.json names" if more > 0 else "")
        )
    lines += [f"note: {note}" for note in imported.notes]
    lines.append(f'written to {output}; use it with d2v.load("{output}")')
    return "\n".join(lines)


def _model_card(name: str, imported: "Imported", assets: dict[str, str], sums: dict[str, str]) -> str:
    origin = ", ".join(f"`{file}` (sha256 `{sha256}`)" for file, sha256 in sums.items())
    sizes = "\n".join(f"| {key} | {value} |" for key, value in _sizes(imported).items())
    left_out = ", ".join(f"`{key}`" for key in imported.left_out) or "nothing"
    notes = "\n".join(f"- {note}" for note in imported.notes) or "- none"
    teacher = '  # or weights="teacher"' if any(key.startswith("teacher.") for key in imported.weights) else ""
    return f"""# {name}

{imported.layout}, imported by d2v from {origin}.

Licence of the weights: {imported.licence}. d2v's own licence does not extend to them.

| size | |
| --- | --- |
{sizes}

Imported: {_parts(imported, assets)}. Left out: {left_out}.

Notes:

{notes}

## Use

```python
import d2v
encoder = d2v.load("{name}"){teacher}
features = {imported.example}
```
"""
