"""What `d2v export` starts from: a run of ours, pretrained or fine-tuned, or a folder that `d2v import` wrote."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2v.checkpoints.classifier_head import load_classifier_head, make_head
from d2v.checkpoints.ctc_head import load_ctc_head
from d2v.checkpoints.folder import CONFIG, is_folder, read_assets, read_config, read_weights
from d2v.checkpoints.layout import CTCHead, ImportedClassifier, StateDict, build_method
from d2v.checkpoints.load import checkpoint_assets, newest_checkpoint
from d2v.checkpoints.unpickle import load_untrusted
from d2v.configs import read_config as read_yaml
from d2v.errors import UserError

CARD = "README.md"
_METHOD = ("masking", "targets", "head", "loss", "cls_loss", "num_masks", "shared_with_teacher")


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint with all that goes with it."""

    path: Path
    weights: StateDict
    """State dict of the method; of a fine-tuned model the student's alone."""
    config: dict[str, Any]
    """What ``config.json`` says of it: ``method`` (of it at least ``student``), ``source`` and more."""
    assets: dict[str, str]
    """Text files of the encoder: its tokenizer."""
    card: str | None = None
    """The model card, of a folder that has one."""
    ctc: CTCHead | None = None
    classifier: ImportedClassifier | None = None

    @property
    def student(self) -> dict[str, Any]:
        """Recipe of the encoder."""
        return self.config["method"]["student"]

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the encoder."""
        return self.student["init_args"]

    @property
    def origin(self) -> str:
        """Where the weights come from, in words."""
        return str(self.config.get("source", {}).get("layout", "data2vec"))

    @property
    def licence(self) -> str | None:
        """Of imported weights; None of one's own."""
        return self.config.get("source", {}).get("licence")


def read_source(path: Path) -> ExportSource:
    """Read a ``.ckpt``, the folder of a run, or a folder with ``config.json`` and ``model.safetensors``.

    Raises:
        UserError: It is none of them, or damaged.
    """
    if is_folder(path):
        return _of_folder(path)
    file = newest_checkpoint(path) if path.is_dir() else path
    content = load_untrusted(file)
    ours, state = content.get("d2v"), content.get("state_dict")
    if not (isinstance(ours, dict) and isinstance(ours.get("student"), dict) and isinstance(state, dict)):
        raise UserError(
            f"{file}: no checkpoint of d2v. One of others is imported first: d2v import {file} --output FOLDER"
        )
    weights = {name.removeprefix("method."): value for name, value in state.items() if name.startswith("method.")}
    student = {name: value for name, value in weights.items() if name.startswith("student.")}
    head = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
    what = {"file": file.name, "global_step": content.get("global_step")}
    if ours.get("licence"):
        what["licence"] = ours["licence"]
    config: dict[str, Any] = {"method": {"student": ours["student"]}}
    source = ExportSource(file, student, config, checkpoint_assets(ours, file))
    if "alphabet" in ours:
        config["source"] = {"layout": "d2v, fine-tuned with CTC", **what}
        ctc = CTCHead(head["proj.weight"], head["proj.bias"], tuple(ours["alphabet"]))
        return dataclasses.replace(source, ctc=ctc)
    if "classes" in ours:
        config["source"] = {"layout": "d2v, fine-tuned to classify", **what}
        return dataclasses.replace(source, classifier=_classifier(file, ours, head))
    config |= {"method": {**_method(file), "student": ours["student"]}, "source": {"layout": "d2v, pretrained", **what}}
    return dataclasses.replace(source, weights=weights)


def _of_folder(path: Path) -> ExportSource:
    config = read_config(path)
    if not isinstance(config["method"].get("student"), dict):
        raise UserError(f"{path / CONFIG}: has no recipe of the student; import or export it again")
    ctc = load_ctc_head(path)
    return ExportSource(
        path,
        read_weights(path),
        {key: value for key, value in config.items() if key not in ("format", "assets")},
        read_assets(path, config),
        (path / CARD).read_text(encoding="utf-8") if (path / CARD).is_file() else None,
        None if ctc is None else CTCHead(ctc[0], ctc[1], tuple(ctc[2])),
        load_classifier_head(path),
    )


def _classifier(file: Path, ours: dict[str, Any], head: StateDict) -> ImportedClassifier:
    """The head of a ``Classifier``; that of a score gives it in the units of the data."""
    settings = ours.get("classifier")
    if not isinstance(settings, dict):
        raise UserError(
            f"{file}: does not say what its head reads, because an older d2v wrote it; fine-tune again, or go on with "
            "`d2v fit --resume` for a step"
        )
    if settings["score_scale"] != 1:
        head = {name: v * settings["score_scale"] if name.startswith("proj.") else v for name, v in head.items()}
    return make_head(head, settings["pool"], tuple(ours["classes"]), settings["task"])


def _method(file: Path) -> dict[str, Any]:
    """Recipe of the method by the run's ``config.yaml``; nothing if it is not there, or builds nothing."""
    config = file.parent.parent / "config.yaml"
    if not config.is_file():
        return {}
    model = read_yaml(config).get("model")
    arguments = model.get("init_args", model) if isinstance(model, dict) else None
    if not isinstance(arguments, dict):
        return {}
    method = {name: arguments[name] for name in _METHOD if name in arguments}
    try:
        with torch.device("meta"):
            build_method({**method, "student": arguments.get("student", {})})
    except UserError:
        return {}
    return method
