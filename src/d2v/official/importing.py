"""The import of an official checkpoint as a function: recognise, translate, write a folder that ``d2v.load`` reads."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2v import __version__
from d2v.checkpoints import folder, head_files, hub
from d2v.checkpoints.export.card import bullets, table
from d2v.checkpoints.recipe import build_method
from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.official import audio_tensors, foreign_heads, speech_tensors, text_tensors, vision_tensors
from d2v.official.imported import Imported
from d2v.official.recognise import read_official

SHOWN = 12
"""Names of what is left out that a summary shows."""

_TOKENIZER = "tokenizer.json"
_ASSETS = {_TOKENIZER: "tokenizer", "preprocessor_config.json": "mean and deviation of the input"}
_HOW = (
    "--tokenizer PATH (a tokenizer.json; of fairseq's models a folder with GPT-2's encoder.json and vocab.bpe and with "
    "their dict.txt)"
)
_DESCRIBED = {
    vision_tensors.FRONT_END: vision_tensors,
    audio_tensors.FRONT_END: audio_tensors,
    speech_tensors.FRONT_END: speech_tensors,
    text_tensors.FRONT_END: text_tensors,
}


@dataclass(frozen=True)
class ImportSummary:
    """What was imported."""

    imported: Imported
    output: Path
    """The new folder."""
    assets: tuple[str, ...]
    """Names of the text files beside the weights."""
    num_parameters: int
    """Of the encoder."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What is worth showing of the encoder."""
        front, trunk = self.imported.front, self.imported.trunk
        prenet, blocks = front.get("prenet_depth", 0), trunk["depth"]
        if prenet:
            blocks = f"{prenet} + {blocks}"
        sizes = {"width": trunk["width"], "blocks": blocks, "heads": trunk["num_heads"]}
        return sizes | _description(self.imported).shown(front)

    @property
    def parts(self) -> str:
        """What was taken, in words."""
        names = folder.parts_in(self.imported.weights)
        head = self.imported.head
        if head is not None:
            described = {"ctc": f"CTC head ({head.num_outputs} symbols)", "regression": "head of a score"}
            names.append(described.get(head.task, f"classifier ({head.num_outputs} classes)"))
        names += [_ASSETS.get(name, name) for name in self.assets]
        return ", ".join(names)

    def __str__(self) -> str:
        imported = self.imported
        sizes = ", ".join(f"{name} {value}" for name, value in self.sizes.items())
        lines = [
            f"{imported.layout}; licence: {imported.licence}",
            f"encoder: {sizes}; {self.num_parameters / 1e6:.1f} M parameters",
            f"imported: {self.parts}",
        ]
        if imported.left_out:
            left_out = ", ".join(imported.left_out[:SHOWN])
            more = len(imported.left_out) - SHOWN
            if more > 0:
                left_out += f" and {more} more, which config.json names"
            lines.append(f"left out: {left_out}")
        lines += [f"note: {note}" for note in imported.notes]
        lines.append(f'written to {self.output}; use it with d2v.load("{self.output}")')
        return "\n".join(lines)


def import_checkpoint(
    source: str | Path,
    output: str | Path,
    dictionary: str | Path | None = None,
    classes: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> ImportSummary:
    """Translate a checkpoint of fairseq, of data2vec_vision (BEiT) or of Hugging Face into a folder that d2v loads.

    None of their code is needed, and none of it runs: files are read as tensors and plain values.

    Args:
        source: A fairseq ``.pt`` or data2vec_vision ``.pth`` file, a folder of Hugging Face transformers or FunASR, or
            ``hf://OWNER/NAME``. Which it is, is told by its content.
        output: A new folder: ``model.safetensors``, ``config.json``, a model card, and what goes with the encoder.
        dictionary: Symbols of a fine-tuned recogniser (fairseq's ``dict.ltr.txt``); None: looked for beside ``source``.
        classes: Names of a fine-tuned classifier's classes, one a line, in the order of its outputs.
        tokenizer: Of a text encoder: a ``tokenizer.json``, or a folder with GPT-2's ``encoder.json`` and ``vocab.bpe``
            and with fairseq's ``dict.txt``; None: looked for beside ``source``, or in it.

    Returns:
        What was imported; as a text it is what ``d2v import`` prints.

    Raises:
        UserError: The source is no checkpoint that can be imported, a file does not fit it, or the output cannot be
            written.
    """
    output = Path(output).expanduser()
    folder.require_empty(output)
    source = hub.local_path(source)
    imported, files = read_official(source)
    imported = _with_names(imported, _path(dictionary), _path(classes), files[0])
    assets = {**imported.assets, **_find_tokenizer(imported, _path(tokenizer), source)}
    try:
        with torch.device("meta"):  # shapes are all that is needed of it
            method = build_method(imported.method)
        folder.require_fit(method, imported.weights)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    sums = {file.name: _sha256(file) for file in files}
    origin: dict[str, Any] = {"layout": imported.layout, "licence": imported.licence}
    if len(sums) == 1:
        ((origin["file"], origin["sha256"]),) = sums.items()
    else:
        origin["files"] = sums
    config = {
        "d2v_version": __version__,
        "method": imported.method,
        "ema": imported.ema,
        "source": origin,
        "left_out": imported.left_out,
        "notes": imported.notes,
    }
    num_parameters = sum(parameter.numel() for parameter in method.student.parameters())
    summary = ImportSummary(imported, output, tuple(assets), num_parameters)
    card = _model_card(summary, sums)
    more, entries = head_files.to_files(imported.head)
    folder.write_folder(output, imported.weights, config | entries, card, {**more, **imported.kept}, assets)
    return summary


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _with_names(imported: Imported, dictionary: Path | None, classes: Path | None, source: Path) -> Imported:
    """The same with the names of its head's outputs; without a recogniser's head if they cannot be known."""
    head = imported.head
    recognises = head is not None and head.task == "ctc"
    if dictionary is not None and not recognises:
        raise UserError(f"--dict {dictionary}: {source} holds no recogniser whose symbols it could name; leave it out")
    if classes is not None and (head is None or recognises):
        raise UserError(f"--classes {classes}: {source} holds no classifier whose classes it could name; leave it out")
    if head is not None and recognises:
        head = foreign_heads.name_symbols(head, dictionary, source, imported.notes)
    elif head is not None and classes is not None:
        head = foreign_heads.name_classes(head, classes)
    elif head is not None:
        head = foreign_heads.name_classes_beside(head, source, imported.notes)
    return dataclasses.replace(imported, head=head)


def _find_tokenizer(imported: Imported, named: Path | None, source: Path) -> dict[str, str]:
    """What becomes of the encoder's assets: its ``tokenizer.json``, if it is one of text and the tokenizer is known.

    Args:
        imported: Its notes are extended by where the tokenizer comes from, and by what is odd about it.
        named: Where the user says that it lies.
        source: The checkpoint, or the folder of Hugging Face; without ``named`` it is looked for there.

    Raises:
        UserError: The tokenizer that the user names cannot be read or does not fit, or there is no text.
    """
    vocab_size = imported.front.get("vocab_size")
    if vocab_size is None:
        if named is not None:
            raise UserError(f"--tokenizer {named}: {source} is no model of text; leave it out")
        return {}
    notes = imported.notes
    if named is not None:
        tokenizer = TextTokenizer.open(named)
        if len(tokenizer) > vocab_size:
            raise UserError(
                f"--tokenizer {named}: has {len(tokenizer)} ids, but the encoder knows {vocab_size}; give the one that "
                "it was trained with"
            )
    else:
        folder, where = source.parent, "beside the checkpoint"
        if source.is_dir():
            folder, where = source, "in the folder"
        try:
            tokenizer = TextTokenizer.open(folder)
        except UserError as error:
            notes.append(f"no tokenizer goes with it ({error}): to have one, import again with {_HOW}")
            return {}
        if len(tokenizer) > vocab_size:
            notes.append(
                f"the tokenizer {where} has {len(tokenizer)} ids, the encoder knows {vocab_size}: it is not used; "
                f"import again with {_HOW}"
            )
            return {}
        if not source.is_dir():
            notes.append(f"the tokenizer is the one {where}")
    if tokenizer.mask_id != vocab_size - 1:
        notes.append(
            f"the tokenizer's <mask> is {tokenizer.mask_id}: a pretraining that goes on from here would take the last "
            f"id, {vocab_size - 1}, in its place"
        )
    return {_TOKENIZER: tokenizer.to_json()}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _description(imported: Imported) -> Any:
    """The module that knows what to show of an encoder's front end."""
    return _DESCRIBED[imported.method["student"]["front"]["class_path"]]


def _model_card(summary: ImportSummary, sums: dict[str, str]) -> str:
    imported, name = summary.imported, summary.output.name
    origin = ", ".join(f"`{file}` (sha256 `{sha256}`)" for file, sha256 in sums.items())
    left_out = ", ".join(f"`{key}`" for key in imported.left_out) or "nothing"
    teacher = ""
    if "teacher" in folder.parts_in(imported.weights):
        teacher = '  # or weights="teacher"'
    example = _description(imported).EXAMPLE.replace("{width}", str(imported.trunk["width"]))
    return f"""# {name}

{imported.layout}, imported by d2v from {origin}.

Licence of the weights: {imported.licence}. d2v's own licence does not extend to them.

{table(summary.sizes)}

Imported: {summary.parts}. Left out: {left_out}.

Notes:

{bullets(imported.notes)}

## Use

```python
import d2v
encoder = d2v.load("{name}"){teacher}
features = {example}
```
"""
