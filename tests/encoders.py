"""Small encoders for tests, from the arguments of front end and trunk together."""

import inspect
from typing import Any

from d2v.modalities.speech.front_end import SpeechFrontEnd
from d2v.modalities.text.front_end import TextFrontEnd
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.nn.transformer import Transformer

OF_TRUNK = set(inspect.signature(Transformer).parameters)


def recipe(front: type[FrontEnd], **arguments: Any) -> dict[str, Any]:
    """The recipe of an encoder."""
    trunk = {name: arguments.pop(name) for name in OF_TRUNK & arguments.keys()}
    class_path = f"{front.__module__}.{front.__qualname__}"
    return {"front": {"class_path": class_path, "init_args": arguments}, "trunk": trunk}


def make(front: type[FrontEnd], **arguments: Any) -> Encoder:
    made = recipe(front, **arguments)
    return Encoder(lambda trunk: front(trunk, **made["front"]["init_args"]), Transformer(**made["trunk"]))


def vision_encoder(**arguments: Any) -> Encoder:
    return make(VisionFrontEnd, **arguments)


def speech_encoder(**arguments: Any) -> Encoder:
    return make(SpeechFrontEnd, **{"eps": 1e-5, **arguments})


def text_encoder(**arguments: Any) -> Encoder:
    return make(TextFrontEnd, **{"eps": 1e-5, **arguments})
