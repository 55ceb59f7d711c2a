"""Which layout a foreign checkpoint has, judged by what is in it and never by its name."""

import zipfile
from pathlib import Path
from typing import Any

from d2v.checkpoints import hub
from d2v.checkpoints.folder import any_begins, is_folder, read_tensors
from d2v.checkpoints.intact import damage
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError
from d2v.official import funasr
from d2v.official.beit import read_beit
from d2v.official.fairseq.v1_speech import read_v1_speech
from d2v.official.fairseq.v1_text import read_v1_text
from d2v.official.fairseq.v1_vision import read_v1_vision
from d2v.official.fairseq.v2_audio import is_spectrogram_encoder, read_v2_audio
from d2v.official.fairseq.v2_speech import read_v2_speech
from d2v.official.fairseq.v2_text import read_v2_text
from d2v.official.fairseq.v2_vision import read_v2_vision
from d2v.official.hugging_face import eat
from d2v.official.hugging_face.model_folder import is_hugging_face, read_model_folder
from d2v.official.imported import Imported
from d2v.official.names import model_state


def _read_v2_image(content: dict[str, Any]) -> Imported:
    if not is_spectrogram_encoder(content):
        return read_v2_vision(content)
    if content.get(_SAFETENSORS):
        return eat.read_avex(content)
    return read_v2_audio(content)


_SAFETENSORS = "safetensors"
"""Entry of the content of a file in that format, which EAT's own files in fairseq's names are not."""
_LAYOUTS = (
    # (beginnings of tensors' names that are all there in this layout, and in none of those above it; what reads it)
    (("modality_encoders.IMAGE.",), _read_v2_image),
    (("modality_encoders.AUDIO.",), read_v2_speech),
    (("modality_encoders.TEXT.",), read_v2_text),
    (("patch_embed.conv.weight",), read_v1_vision),
    (("feature_extractor.conv_layers.0.0.weight",), read_v1_speech),
    (("encoder.sentence_encoder.",), read_v1_text),
    (("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), read_beit),
    (eat.NAMES, eat.read_avex),
)
_HUGGING_FACE = (
    "feature_extractor.conv_layers.0.conv.weight", "embeddings.word_embeddings.weight", "embeddings.patch_embeddings.",
)  # fmt: skip
_KNOWN = (
    "fairseq's data2vec 1.0 and 2.0 of vision, speech and text, data2vec_vision's (BEiT's code), pretrained or "
    "fine-tuned, emotion2vec, EAT, SSLAM, AVEX, TeleSpeech, data2vec-aqc, and folders of Hugging Face's Data2VecAudio, "
    "Data2VecText and Data2VecVision, of EAT and of Pantagruel"
)


def read_official(source: Path) -> tuple[Imported, list[Path]]:
    """Read a checkpoint, or a folder of FunASR or Hugging Face; returns what it holds and the files of its weights.

    Raises:
        UserError: It is neither, or broken; the message begins with ``source``.
    """
    content = None
    if source.is_dir() and not is_hugging_face(source) and not is_folder(source):
        source = funasr.named_weights(source) or hub.weights_in(source)
    if not source.is_dir():
        if not source.is_file():  # a pipe and a device have no end
            raise UserError(f"{source}: no such file")
        if zipfile.is_zipfile(source) and (wrong := damage(source, of_a_run=False)):
            raise UserError(f"{source}: is damaged ({wrong}); get it once more")
        if source.suffix == ".safetensors" and is_hugging_face(source.parent):
            source = source.parent
        elif source.suffix == ".safetensors":
            content = {"model": dict(read_tensors(source)), _SAFETENSORS: True}
        else:
            content = load_untrusted(source)
    try:
        if content is not None:
            found = read_content(funasr.with_settings(content, source.parent))
            funasr.name_classes(found, source.parent)
            return found, [source]
        if is_folder(source):
            raise UserError("a folder of d2v itself, which needs no import: give it to d2v.load or --checkpoint")
        if is_hugging_face(source):
            return read_model_folder(source)
        raise UserError("is a folder, and config.json in it names no model_type; give the checkpoint file in it")
    except UserError as error:
        place = source if source.is_dir() else source.parent
        if str(error).startswith(f"{place}/"):  # of a file beside it
            raise
        raise UserError(f"{source}: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # Settings are read where they are needed, and any of them may be text where a number belongs, or the like.
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{source}: the checkpoint's settings cannot be understood: {why}") from error


def read_content(content: dict[str, Any]) -> Imported:
    """Translate the content of a checkpoint file of any layout that is known.

    Raises:
        UserError: It is none of them, or one of them but broken.
    """
    names = list(model_state(content))
    for beginnings, read in _LAYOUTS:
        if all(any_begins(names, beginning) for beginning in beginnings):
            return read(content)
    if any(part in name for name in names for part in _HUGGING_FACE):
        raise UserError("the weights of a Hugging Face model: give the folder, with the config.json beside this file")
    if any_begins(names, "method.student."):
        raise UserError("a checkpoint of d2v itself, which needs no import: give it to d2v.load or --checkpoint")
    shown = ", ".join(names[:5]) or "nothing"
    if len(names) > 5:
        shown += ", ..."
    raise UserError(f"not recognised (it holds {shown}). Known are {_KNOWN}")
