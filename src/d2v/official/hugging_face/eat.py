"""EAT and SSLAM in a folder of transformers, and AVEX, which is the same model with other names in one file."""

import dataclasses
from pathlib import Path
from typing import Any

from d2v.errors import UserError
from d2v.official import published
from d2v.official.audio_tensors import MEL_BINS
from d2v.official.fairseq.v2_audio import AUDIOSET, read_v2_audio
from d2v.official.hugging_face.terms import read_class_settings
from d2v.official.imported import Imported
from d2v.official.names import model_state, tensor, without_prefix

MODEL_TYPE = "eat"
NAMES = ("extra_tokens", "pre_norm.", "local_encoder.proj.", "fixed_positional_encoder.")
"""Beginnings of names that are all there in this layout, in which all lies in one model."""
_ENCODER = ("extra_tokens", "local_encoder.", "fixed_positional_encoder.")
_NORM_EPS = 1e-5
"""Of the norm before the classifier, which is 1e-6 in fairseq."""
_AVEX = (-5.553, 4.606)
"""Mean and deviation of filter banks (AVEX's ``api/configs/official_models``)."""


def read_eat_folder(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the published settings stand for that.

    Args:
        folder: Not looked into.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    tensors = _in_fairseq_names(without_prefix(state, "model."))
    content = {"cfg": {"model": _settings(tensors, config)}, "model": tensors}
    found = read_v2_audio(content, AUDIOSET, _NORM_EPS, int(config.get("mel_bins", MEL_BINS)))
    if found.head is not None:
        names = read_class_settings(config, state, "model.head.bias")["names"]
        found.head = dataclasses.replace(found.head, names=names)
    return _described(found, "EAT or SSLAM in Hugging Face's form", "as its model card says (EAT: MIT)")


def read_avex(content: dict[str, Any]) -> Imported:
    """Translate the tensors of one of AVEX's files, whose classifier reads CLS without a norm.

    Raises:
        UserError: It is not whole.
    """
    tensors = _in_fairseq_names(model_state(content))
    for part in ("weight", "bias"):
        if f"classifier.{part}" in tensors:
            tensors[f"head.{part}"] = tensors.pop(f"classifier.{part}")
    found = read_v2_audio({"cfg": {"model": _settings(tensors, {})}, "model": tensors}, _AVEX)
    return _described(found, "AVEX (EAT)", "CC-BY-NC-SA by its model card")


def _in_fairseq_names(state: dict[str, Any]) -> dict[str, Any]:
    names = {}
    for name, value in state.items():
        if name.startswith("pre_norm."):
            name = f"modality_encoders.IMAGE.context_encoder.norm.{name.removeprefix('pre_norm.')}"
        elif name.startswith(_ENCODER):
            name = f"modality_encoders.IMAGE.{name}"
        names[name] = value
    return names


def _settings(names: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The published settings of the pretraining with what ``config.json`` says of the model."""
    width = len(tensor(names, "modality_encoders.IMAGE.local_encoder.proj.bias", dims=1))
    patch = config.get("patch_size", 16)
    said = {"num_heads": config.get("num_heads", max(1, width // 64)), "encoder_dropout": config.get("drop_rate", 0.0)}
    for key in ("depth", "embed_dim", "norm_eps", "layer_norm_first", "activation_dropout", "post_mlp_drop"):
        if key in config:
            said[key] = config[key]
    said["attention_dropout"] = config.get("attn_drop_rate", 0.0)
    if config.get("stride", patch) != patch:
        raise UserError(f"stride is {config['stride']}: d2v's patches lie side by side, {patch} apart")
    if config.get("norm_affine") is False:
        raise UserError("norm_affine is off: d2v's norms have weights")
    return {**published.settings_of("v2_audio", width, "image"), **said}


def _described(found: Imported, layout: str, licence: str) -> Imported:
    tuned = ", fine-tuned" if found.head is not None else ""
    found.layout, found.licence = f"{layout} (data2vec 2.0 on spectrograms){tuned}", licence
    found.notes.append("the settings of the pretraining are not in the file: those of EAT's are taken")
    return found
