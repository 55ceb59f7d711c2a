"""Pantagruel's speech and text encoders (2.0): fairseq's names of tensors and settings in a folder of transformers."""

from pathlib import Path
from typing import Any

from d2v.checkpoints.folder import StateDict, any_begins, prefixed
from d2v.errors import UserError
from d2v.official.fairseq.v2_speech import read_v2_speech
from d2v.official.fairseq.v2_text import read_v2_text
from d2v.official.imported import Imported
from d2v.official.names import without_prefix

MODEL_TYPES = ("pantagruel_uni", "data2vec2")
"""Of the published models, and of the authors' fork of transformers."""
_LM_HEAD = ("lm_head.", "cls.predictions.")


def read_pantagruel(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder; a head that predicts words, which nothing here computes, is kept as it is.

    Args:
        folder: Not looked into.
        config: Content of ``config.json``, in which fairseq's names say what the model is, and transformers' nothing.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    model = "modality_encoders."  # in a model with a head, another prefix before it
    prefix = next((name.partition(model)[0] for name in state if model in name), "")
    state = without_prefix(state, prefix)
    content = {"cfg": {"model": config}, "model": state}
    if any_begins(state, "modality_encoders.AUDIO."):
        found, kind = read_v2_speech(content), "speech"
    elif any_begins(state, "modality_encoders.TEXT."):
        found, kind = read_v2_text(content), "text"
    else:
        raise UserError("its tensors are of neither speech nor text (modality_encoders.AUDIO, modality_encoders.TEXT)")
    head: StateDict = {}
    for beginning in _LM_HEAD:
        head |= prefixed({name: state[name] for name in found.left_out if name in state}, beginning)
    if head:
        found.kept["lm_head.safetensors"] = head
        found.left_out = [name for name in found.left_out if name not in head]
        found.notes.append("the head that predicts words is kept in lm_head.safetensors, by its own names")
    found.layout = f"Pantagruel {kind} (data2vec 2.0)"
    found.licence = "as its model card says"
    return found
