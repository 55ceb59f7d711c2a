"""`d2v export --format hf`: a folder that Hugging Face transformers loads. transformers itself is not needed for it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.checkpoints.export.card import model_card
from d2v.checkpoints.export.source import ExportSource
from d2v.checkpoints.folder import WEIGHTS, write_files
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.official.hugging_face import speech as audio
from d2v.official.hugging_face import speech_writing as hugging_face_audio
from d2v.official.hugging_face import text, vision
from d2v.official.hugging_face import text_writing as hugging_face_text
from d2v.official.hugging_face import vision_writing as hugging_face_vision
from d2v.official.hugging_face.files import CONFIG
from d2v.official.hugging_face.names import official_names, split_qkv
from d2v.official.hugging_face.terms import Official


@dataclass(frozen=True)
class _Family:
    """Where a modality's encoder goes."""

    exporter: Any
    layout: Any
    """The module that imports it, whose names of tensors hold for both ways."""


_FAMILIES = {
    "d2v.modalities.speech.front_end.SpeechEncoder": _Family(hugging_face_audio, audio),
    "d2v.modalities.text.front_end.TextEncoder": _Family(hugging_face_text, text),
    "d2v.modalities.vision.front_end.VisionEncoder": _Family(hugging_face_vision, vision),
}
_USE = """```python
from transformers import {model}
model = {model}.from_pretrained("{name}")
```"""


def export(source: ExportSource, encoder: Encoder, output: Path) -> list[str]:
    """Write the folder.

    Args:
        source: What is exported.
        encoder: Of it, the student or the teacher.
        output: A new folder.

    Returns:
        What was written, in words.

    Raises:
        UserError: Hugging Face has no such model; the message says what does not fit. Or the place cannot be written.
    """
    official = translate(source, encoder)
    files = {CONFIG: official.config, **official.files}
    texts = {name: value if isinstance(value, str) else _json(value) for name, value in files.items()}
    name = official.config["architectures"][0]
    use = _USE.format(model=name, name=output.name)
    texts["README.md"] = model_card(output.name, source, "transformers", use)
    write_files(output, {WEIGHTS: official.weights}, texts)
    return [name, *official.files]


def translate(source: ExportSource, encoder: Encoder) -> Official:
    """The model as Hugging Face has it; raises a UserError if it has none."""
    class_path = encoder.recipe["class_path"]
    family = _FAMILIES.get(class_path)
    if family is None:
        raise _refusal(source, [f"{class_path} has no counterpart"])
    weights = split_qkv({name: value.detach() for name, value in encoder.state_dict().items()})
    official = family.exporter.translate(source, encoder, weights)
    if official.problems:
        raise _refusal(source, official.problems)
    body = official_names(official.weights, family.layout.ENCODER_PARTS)
    prefix = family.layout.PREFIX if official.head else ""
    return Official(
        config={
            "architectures": [official.config.pop("architecture")],
            "model_type": family.layout.MODEL_TYPE,
            "dtype": "float32",
            **official.config,
        },
        weights={**{prefix + name: value for name, value in {**body, **official.extra}.items()}, **official.head},
        files=official.files,
    )


def _refusal(source: ExportSource, problems: list[str]) -> UserError:
    return UserError(
        f"--format hf: the classes of Hugging Face cannot hold {source.path.name}: {'; '.join(problems)}. "
        "--format safetensors, onnx and torch can"
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
