"""Which layout a foreign checkpoint has, judged by what is in it and never by its name."""

from typing import Any

from d2v.checkpoints import beit, fairseq_v1, fairseq_v2
from d2v.checkpoints.layout import Imported, model_state
from d2v.errors import UserError

_LATER = {
    "speech": ("modality_encoders.AUDIO.", "feature_extractor.conv_layers."),
    "text": ("modality_encoders.TEXT.", "sentence_encoder."),
}
_KNOWN = (
    "data2vec 2.0 vision of fairseq, data2vec 1.0 vision of fairseq, and data2vec_vision's (BEiT's code), "
    "pretrained or fine-tuned"
)


def convert(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint of any layout that is known.

    Raises:
        UserError: It is none of them, or one of them but broken.
    """
    for layout in (fairseq_v2, fairseq_v1, beit):
        if layout.matches(content):
            return layout.convert(content)
    names = list(model_state(content))
    for modality, parts in _LATER.items():
        if any(part in name for name in names for part in parts):
            raise UserError(f"a fairseq checkpoint of {modality}: this version of d2v imports vision only")
    if any(name.startswith("method.student.") for name in names):
        raise UserError("a checkpoint of d2v itself, which needs no import: give it to d2v.load or --checkpoint")
    shown = ", ".join(names[:5]) or "nothing"
    raise UserError(f"not recognised (it holds {shown}{', ...' if len(names) > 5 else ''}). Known are {_KNOWN}")
