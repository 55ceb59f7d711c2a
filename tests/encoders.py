"""Small encoders for tests, from the arguments of front end and trunk together."""

import inspect
from pathlib import Path
from typing import Any

import torch

from d2v.checkpoints.folder import read_config, read_weights, require_fit
from d2v.checkpoints.load import init_weights
from d2v.checkpoints.recipe import build_method
from d2v.modalities.speech.front_end import SpeechFrontEnd
from d2v.modalities.text.front_end import TextFrontEnd
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.task import Task
from d2v.nn.transformer import Transformer
from d2v.types import Batch, Data2VecOutput

OF_TRUNK = set(inspect.signature(Transformer).parameters)


def recipe(front: type[FrontEnd], **arguments: Any) -> dict[str, Any]:
    """The recipe of an encoder."""
    trunk = {name: arguments.pop(name) for name in OF_TRUNK & arguments.keys()}
    class_path = f"{front.__module__}.{front.__qualname__}"
    return {"front": {"class_path": class_path, "init_args": arguments}, "trunk": trunk}


def arguments(recipe: dict[str, Any]) -> dict[str, Any]:
    """The arguments of front end and trunk in the recipe of an encoder, side by side."""
    return {**recipe["front"]["init_args"], **recipe["trunk"]}


def make(front: type[FrontEnd], **arguments: Any) -> Encoder:
    made = recipe(front, **arguments)
    return Encoder(lambda trunk: front(trunk, **made["front"]["init_args"]), Transformer(**made["trunk"]))


def vision_encoder(**arguments: Any) -> Encoder:
    return make(VisionFrontEnd, **arguments)


def speech_encoder(**arguments: Any) -> Encoder:
    return make(SpeechFrontEnd, **{"eps": 1e-5, **arguments})


def text_encoder(**arguments: Any) -> Encoder:
    return make(TextFrontEnd, **{"eps": 1e-5, **arguments})


def save_checkpoint(encoder: Encoder, path: Path, state: dict[str, Any] | None = None, **entry: Any) -> Path:
    """A checkpoint of ours with nothing but an encoder, ``state`` and more of its entry ``d2v``."""
    weights = {f"method.student.{name}": value for name, value in encoder.state_dict().items()}
    encoders = {"": {"recipe": encoder.recipe, "assets": encoder.assets, "licence": encoder.licence}}
    torch.save(
        {"state_dict": {**weights, **(state or {})}, "d2v": {"version": "0", "encoders": encoders, **entry}}, path
    )
    return path


def load_method(folder: Path) -> Data2Vec:
    """The whole method of an imported folder: its recipe with its weights."""
    method = build_method(read_config(folder)["method"])
    require_fit(method, read_weights(folder))
    init_weights(method, folder)
    return method


def data2vec(student: Encoder, *arguments: Any, **task: Any) -> Data2Vec:
    """A method of one encoder, by the arguments of its task."""
    return Data2Vec(student, Task(student, *arguments, **task))


def step(method: Data2Vec, batch: Batch, seed: int = 0) -> Data2VecOutput:
    """One step of a method of one encoder."""
    return method({"": batch}, seed)[""]
