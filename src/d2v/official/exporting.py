"""The export of a checkpoint as a function: a folder of d2v, of Hugging Face transformers, ONNX or a torch program."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from d2v import __version__
from d2v.checkpoints import folder, head_files, hub
from d2v.checkpoints.export import program
from d2v.checkpoints.export.card import model_card
from d2v.checkpoints.load import Weights, load_encoder
from d2v.checkpoints.opening import CARD, Checkpoint, open_checkpoint
from d2v.checkpoints.recipe import build_method
from d2v.errors import UserError
from d2v.joint_configs import merged_configs
from d2v.official.hugging_face.model_folder import write_model_folder
from d2v.official.hugging_face.own_class import OWN_CODE

Format = Literal["hf", "safetensors", "onnx", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)

_METHOD = ("masking", "targets", "head", "loss", "cls_loss", "num_masks", "shared_with_teacher")
_USE_D2V = """```python
import d2v
encoder = d2v.load("{name}"){teacher}
features = encoder.embed(x)
```

`model.init_from: {name}` goes on pretraining from it, `model.checkpoint: {name}` fine-tunes it."""
_USE_TRANSFORMERS = """```python
from transformers import {model}
model = {model}.from_pretrained("{name}")
```"""
_USE_OWN_CODE = """```python
from transformers import AutoModel
model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
```

The class is `{model}` of `modeling_d2v.py` in the folder. `last_hidden_state` begins with tokens that are none of the
input, `model.config.num_extra_tokens` of them; `pooler_output` is the mean of the others. `d2v.load("{name}")` reads
the folder, too."""


@dataclass(frozen=True)
class ExportSummary:
    """What was exported."""

    origin: str
    """Where the weights come from, in words."""
    licence: str | None
    """Of weights that come from somebody else."""
    written: list[str]
    """What was written, in words."""
    output: Path
    """The new folder."""
    pushed_to: str | None = None
    """Address on the hub."""

    def __str__(self) -> str:
        lines = [f"{self.origin}; licence: {self.licence or 'your own weights'}"]
        lines += [f"  {line}" for line in self.written]
        lines.append(f"written to {self.output}")
        if self.pushed_to:
            lines.append(f"pushed to {self.pushed_to}")
        return "\n".join(lines)


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    format: Format,
    weights: Weights | None = None,
    push: str | None = None,
    modality: str | None = None,
    allow: Iterable[str] = (),
) -> ExportSummary:
    """Write a checkpoint as a folder for others.

    Args:
        checkpoint: A run, a ``.ckpt``, an imported folder, or ``hf://OWNER/NAME``.
        output: A new folder.
        format: "safetensors": a folder that d2v loads; of a pretraining with student, teacher and head. "hf": for
            Hugging Face transformers, of one of its own classes or of ours (``modeling_d2v.py``). "onnx", "torch": one
            file that computes features, or what a fine-tuned head says, for any batch, length and size; it is compared
            with the model at other sizes.
        weights: Of a pretraining's student (None) or teacher; not of "safetensors", which holds both.
        push: ``OWNER/NAME`` on the Hugging Face hub, to which the folder is uploaded.
        modality: Which encoder of a checkpoint that holds several; the folder has that one alone.
        allow: Packages outside d2v whose classes the checkpoint may name; see :func:`d2v.load`.

    Returns:
        What was written; as a text it is what ``d2v export`` prints.

    Raises:
        UserError: An argument is wrong, or the model cannot be written in this format.
        RuntimeError: A program differs from the model by more than 1e-4.
    """
    output = Path(output).expanduser()
    if format not in FORMATS:
        raise UserError(f"format {format!r}: give one of {', '.join(FORMATS)}")
    folder.require_empty(output)
    if push is not None:
        hub.require_token(push)
    if format == "safetensors" and weights is not None:
        raise UserError(
            "--weights: --format safetensors writes student and teacher; leave it out, and say which to d2v.load"
        )
    if format == "onnx":
        program.require_onnx()
    opened = open_checkpoint(checkpoint)
    name = opened.name_of(modality)
    opened = opened.only(name)
    head = opened.head()
    if format == "safetensors":
        written = _write_safetensors(opened, name, head, output, allow)
    else:
        if weights == "teacher" and head is not None:
            raise UserError("--weights teacher: a fine-tuned model has one encoder; leave it out")
        encoder = load_encoder(opened, weights or "student", allow=allow)
        if format == "hf":
            try:
                source = opened.config.get("source", {})
                model, tensors, texts = write_model_folder(encoder, head, opened.encoder().assets, source)
            except UserError as error:
                raise UserError(
                    f"--format hf: the classes of Hugging Face cannot hold {opened.path.name}: {error}. "
                    "--format safetensors, onnx and torch can"
                ) from error
            written = [model, *list(texts)[1:]]
            use = _USE_TRANSFORMERS
            if OWN_CODE in texts:
                use = _USE_OWN_CODE
            use = use.format(model=model, name=output.name)
            texts[CARD] = model_card(output.name, opened, "transformers", use)
            folder.write_files(output, {folder.WEIGHTS: tensors}, texts)
        else:
            written = program.export_program(opened, encoder, head, output, format)
    summary = ExportSummary(opened.origin, opened.encoder().licence, written, output)
    if push is not None:
        summary = replace(summary, pushed_to=hub.push(output, push))
    return summary


def _write_safetensors(
    checkpoint: Checkpoint, name: str, head: head_files.StoredHead | None, output: Path, allow: Iterable[str]
) -> list[str]:
    """A folder as the import writes it; one that comes from such a folder is the same again, file by file."""
    config, weights, card = dict(checkpoint.config), checkpoint.weights, None
    kept: dict[str, folder.StateDict] = {}
    if checkpoint.path.is_dir():
        for file in sorted(checkpoint.path.glob("*.safetensors")):
            if file.name not in (folder.WEIGHTS, head_files.FILE):  # what an import has kept
                kept[file.name] = folder.read_tensors(file)
        config = {key: value for key, value in config.items() if key not in ("format", "model_type", "assets")}
        if (checkpoint.path / CARD).is_file():
            card = (checkpoint.path / CARD).read_text(encoding="utf-8")
    else:
        config = {"d2v_version": __version__, **config}
        if head is not None:
            weights = folder.prefixed(weights, "student.")
        else:
            config["method"] = {**_method_of_run(checkpoint, name, allow), **config["method"]}
    parts = folder.parts_in(weights)
    if card is None:
        teacher = '  # or weights="teacher"' if "teacher" in parts else ""
        card = model_card(output.name, checkpoint, "d2v", _USE_D2V.format(name=output.name, teacher=teacher))
    more, entries = head_files.to_files(head)
    more = {**kept, **more}
    assets = checkpoint.encoder().assets
    folder.write_folder(output, weights, config | entries, card, more, assets)
    if "head" in parts and len(config["method"]) == 1:
        parts.append("no recipe of the method, because the run's config.yaml is not beside its checkpoints")
    return [*parts, *more, *assets]


def _method_of_run(checkpoint: Checkpoint, name: str, allow: Iterable[str]) -> dict[str, Any]:
    """Recipe of the method by the run's ``config.yaml``; nothing if it is not there, or builds nothing."""
    config = checkpoint.path.parent.parent / "config.yaml"
    if not config.is_file():
        return {}
    model = merged_configs([config], name or None).get("model")
    if not isinstance(model, dict):
        return {}
    arguments = model.get("init_args", model)
    if not isinstance(arguments, dict):
        return {}
    method = {name: arguments[name] for name in _METHOD if name in arguments}
    try:
        with torch.device("meta"):
            build_method({**method, "student": checkpoint.encoder().recipe}, allow)
    except UserError:
        return {}
    return method
