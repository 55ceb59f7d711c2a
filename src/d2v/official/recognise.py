"""Which layout a foreign checkpoint has, judged by what is in it and never by its name."""

from pathlib import Path
from typing import Any

from d2v.checkpoints.folder import is_folder
from d2v.checkpoints.layout import Imported, model_state
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError
from d2v.official import beit
from d2v.official.fairseq import v1_speech as v1_audio
from d2v.official.fairseq import v1_text, v1_vision, v2_text
from d2v.official.fairseq import v2_speech as v2_audio
from d2v.official.fairseq import v2_vision as v2_image
from d2v.official.hugging_face import reading as families

_LAYOUTS = (v2_image, v2_audio, v2_text, v1_vision, v1_audio, v1_text, beit)
_HUGGING_FACE = (
    "feature_extractor.conv_layers.0.conv.weight", "embeddings.word_embeddings.weight", "embeddings.patch_embeddings.",
)  # fmt: skip
_KNOWN = (
    "fairseq's data2vec 1.0 and 2.0 of vision, speech and text, data2vec_vision's (BEiT's code), pretrained or "
    "fine-tuned, and folders of Hugging Face's Data2VecAudio, Data2VecText and Data2VecVision"
)


def read(source: Path) -> tuple[Imported, list[Path]]:
    """Read a checkpoint, or a folder of Hugging Face; returns what it holds and the files of its weights.

    Raises:
        UserError: It is neither, or broken; the message begins with ``source``.
    """
    if not source.is_dir():
        content = load_untrusted(source)
    try:
        if not source.is_dir():
            return convert(content), [source]
        if is_folder(source) and not families.matches(source):
            raise UserError("a folder of d2v itself, which needs no import: give it to d2v.load or --checkpoint")
        if not families.matches(source):
            raise UserError(
                "is a folder, and none of Hugging Face's (config.json, model.safetensors); give the checkpoint file "
                "in it"
            )
        return families.convert(source)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # Settings are read where they are needed, and any of them may be text where a number belongs, or the like.
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{source}: the checkpoint's settings cannot be understood: {why}") from error


def convert(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint file of any layout that is known.

    Raises:
        UserError: It is none of them, or one of them but broken.
    """
    for layout in _LAYOUTS:
        if layout.matches(content):
            return layout.convert(content)
    names = list(model_state(content))
    if any(part in name for name in names for part in _HUGGING_FACE):
        raise UserError("the weights of a Hugging Face model: give the folder, with the config.json beside this file")
    if any(name.startswith("method.student.") for name in names):
        raise UserError("a checkpoint of d2v itself, which needs no import: give it to d2v.load or --checkpoint")
    shown = ", ".join(names[:5]) or "nothing"
    raise UserError(f"not recognised (it holds {shown}{', ...' if len(names) > 5 else ''}). Known are {_KNOWN}")
