"""Tiny checkpoints of ours of all modalities and versions, with random values everywhere, and `d2v export` of them."""

import argparse
from pathlib import Path
from typing import Any

import torch
from encoders import make, speech_encoder, text_encoder, vision_encoder
from torch import Tensor

from d2v import __version__
from d2v.checkpoints.head_files import head_recipe
from d2v.commands import export
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.model.encoder import Encoder
from d2v.nn.task_heads import ClassifierHead, CTCHead, TanhHead

EXTRACTOR = ((8, 10, 5), (12, 3, 2), (12, 2, 2))
SPEECH = {
    "width": 16, "depth": 2, "num_heads": 2, "extractor": EXTRACTOR, "position_layers": 2, "position_kernel": 3,
    "position_groups": 4,
}  # fmt: skip
AUDIO = {"max_frames": 64, "mel_bins": 8, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
TEXT = {"vocab_size": 40, "width": 16, "depth": 2, "num_heads": 2, "max_positions": 30}
VISION = {"image_size": (16, 24), "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2}
BEIT = {
    "masked_input": "replace", "positions": None, "relative_bias": "shared", "norm_first": True, "layer_scale": 0.1,
    "key_bias": False,
}  # fmt: skip


@torch.no_grad()
def make_encoder(kind: str, **changes: Any) -> Encoder:
    """One with random biases and norms, too, which are built as zeros and ones."""
    torch.manual_seed(2)
    encoder: Encoder = {
        "speech1": lambda: speech_encoder(**{**SPEECH, "masked_input": "replace", "alibi": False, **changes}),
        "speech2": lambda: speech_encoder(**{**SPEECH, **changes}),
        "speech2_ten": lambda: speech_encoder(**{**SPEECH, "num_cls": 10, **changes}),
        "audio": lambda: make(AudioFrontEnd, **{**AUDIO, **changes}),
        "text1": lambda: text_encoder(**{**TEXT, "masked_input": "replace", **changes}),
        "text2": lambda: text_encoder(**{**TEXT, "alibi": True, "max_positions": None, **changes}),
        "vision1": lambda: vision_encoder(**{**VISION, **BEIT, **changes}),
        "vision2": lambda: vision_encoder(**{**VISION, "prenet_depth": 1, **changes}),
    }[kind]()
    for parameter in encoder.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


def save(
    path: Path,
    encoder: Encoder,
    head_weights: dict[str, Tensor] | None = None,
    teacher: Encoder | None = None,
    assets: dict[str, str] | None = None,
    **ours: Any,
) -> Path:
    """A ``.ckpt`` as Lightning writes it; ``ours``: what a fine-tuned one says in its entry ``d2v``."""
    state = {f"method.student.{name}": value for name, value in encoder.state_dict().items()}
    if teacher is not None:
        state |= {f"method.teacher.encoder.{name}": value for name, value in teacher.state_dict().items()}
    state |= {f"method.head.{name}": value for name, value in (head_weights or {}).items()}
    encoders = {"": {"recipe": encoder.recipe, "assets": assets or {}, "licence": None}}
    entry = {"version": __version__, "encoders": encoders, **ours}
    torch.save({"state_dict": state, "global_step": 7, "d2v": entry}, path)
    return path


def recogniser(symbols: list[str], width: int = 16) -> dict[str, Any]:
    """What a fine-tuned recogniser says of its head."""
    head = head_recipe(CTCHead(width, len(symbols)))
    return {"alphabet": symbols, "head": {"recipe": head, "task": "ctc", "pool": "none"}}


def classifier(
    classes: list[str], head: dict[str, Tensor], pool: str, task: str = "single", score_scale: float = 1.0
) -> dict[str, Any]:
    """What a fine-tuned classifier says of its head, whose tensors are those of :func:`linear_head`."""
    kind = TanhHead if "hidden.weight" in head else ClassifierHead
    recipe = head_recipe(kind(head["proj.weight"].shape[1], len(classes), "norm.weight" in head, eps=1e-5))
    return {"classes": classes, "head": {"recipe": recipe, "task": task, "pool": pool, "score_scale": score_scale}}


def linear_head(classes: int, norm: bool = False, tanh: bool = False, width: int = 16) -> dict[str, Tensor]:
    """Random weights of a head in the names of ``nn/task_heads.py``."""
    torch.manual_seed(4)
    head = {"proj.weight": torch.randn(classes, width), "proj.bias": torch.randn(classes)}
    if norm:
        head |= {"norm.weight": torch.randn(width), "norm.bias": torch.randn(width)}
    if tanh:
        head |= {"hidden.weight": torch.randn(width, width), "hidden.bias": torch.randn(width)}
    return head


def run_export(checkpoint: Path | str, form: str, output: Path, **changes: Any) -> Path:
    arguments = {"weights": None, "push": None, "modality": None, **changes}
    export.run(argparse.Namespace(checkpoint=str(checkpoint), format=form, output=output, **arguments))
    return output
