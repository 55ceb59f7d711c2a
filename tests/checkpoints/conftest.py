"""Checkpoints as the official codes write them, of any shape, with random weights."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v.commands import import_

sys.path.insert(0, str(Path(__file__).parent))  # speech_checkpoints.py

State = dict[str, Any]


def _block(prefix: str, width: int, hidden: int, fc: tuple[str, str] = ("fc1", "fc2")) -> State:
    shapes = {"attn.qkv.weight": (3 * width, width)}
    shapes |= {"attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
    shapes |= {f"mlp.{fc[0]}.weight": (hidden, width), f"mlp.{fc[0]}.bias": (hidden,)}
    shapes |= {f"mlp.{fc[1]}.weight": (width, hidden), f"mlp.{fc[1]}.bias": (width,)}
    for norm in ("norm1", "norm2"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {prefix + name: torch.randn(shape) for name, shape in shapes.items()}


def v2_image(
    width: int = 32,
    depth: int = 2,
    prenet: int = 1,
    heads: int = 4,
    patch: int = 8,
    side: int = 4,
    extra: int = 1,
    decoder: tuple[int, int, int, int] | None = (16, 2, 3, 4),
    hidden: int = 64,
    ema_local_encoder: bool = True,
    fp16: bool = False,
    **model: Any,
) -> State:
    """A fairseq data2vec 2.0 checkpoint; ``decoder``: width, layers, kernel, groups; ``model``: of its settings."""
    image = "modality_encoders.IMAGE."

    def encoder() -> State:
        state = {
            image + "local_encoder.proj.weight": torch.randn(width, 3, patch, patch),
            image + "local_encoder.proj.bias": torch.randn(width),
            image + "fixed_positional_encoder.positions": torch.randn(1, side * side, width),
            image + "context_encoder.norm.weight": torch.randn(width),
            image + "context_encoder.norm.bias": torch.randn(width),
        }
        if extra:
            state[image + "extra_tokens"] = torch.randn(1, extra, width)
        for number in range(prenet):
            state |= _block(f"{image}context_encoder.blocks.{number}.", width, hidden)
            state[f"{image}context_encoder.blocks.{number}.attn.qkv.bias"] = torch.randn(3 * width)
        for number in range(depth):
            state |= _block(f"blocks.{number}.", width, hidden)
            state[f"blocks.{number}.attn.qkv.bias"] = torch.randn(3 * width)
        return state

    state = encoder()
    if decoder is not None:
        dim, layers, kernel, groups = decoder
        for number in range(layers):
            channels = width if number == 0 else dim
            state[f"{image}decoder.blocks.{number}.0.weight"] = torch.randn(dim, channels // groups, kernel, kernel)
            state[f"{image}decoder.blocks.{number}.0.bias"] = torch.randn(dim)
        state[f"{image}decoder.proj.weight"] = torch.randn(width, dim)
        state[f"{image}decoder.proj.bias"] = torch.randn(width)
    if fp16:
        state = {name: value.half() for name, value in state.items()}
    teacher = encoder()
    if not ema_local_encoder:
        teacher = {name: value for name, value in teacher.items() if "local_encoder" not in name}
    state["_ema"] = teacher
    image_cfg = {
        "patch_size": patch,
        "input_size": patch * side,
        "prenet_depth": prenet,
        "num_extra_tokens": extra,
        "inverse_mask": True,
        "mask_prob": 0.5,
        "mask_length": 2,
        "mask_prob_adjust": None,
        "ema_local_encoder": ema_local_encoder,
    }
    cfg = {
        "_name": "data2vec_multi",
        "depth": depth,
        "embed_dim": width,
        "num_heads": heads,
        "loss_scale": None,
        **model,
    }
    return {"args": None, "cfg": {"model": {**cfg, "modalities": {"image": image_cfg, "audio": None}}}, "model": state}


def v1_vision(
    port: str = "beit",
    width: int = 32,
    depth: int = 3,
    heads: int = 4,
    patch: int = 8,
    grid: tuple[int, int] = (4, 4),
    bias: str | None = "shared",
    positions: bool = False,
    layer_scale: bool = True,
    hidden: int = 64,
    teacher: bool = True,
    fine_tuned: bool = False,
) -> State:
    """A data2vec 1.0 vision checkpoint of ``port`` "beit" or "fairseq", without settings."""
    offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    fairseq = port == "fairseq"

    def transformer() -> State:
        state: State = {}
        if bias == "shared":
            state["rel_pos_bias.relative_position_bias_table"] = torch.randn(offsets, heads)
            state["rel_pos_bias.relative_position_index"] = torch.zeros(2, 2, dtype=torch.int64)
        for number in range(depth):
            state |= _block(f"blocks.{number}.", width, hidden, ("0", "2") if fairseq else ("fc1", "fc2"))
            for name in ("q_bias", "v_bias"):
                state[f"blocks.{number}.attn.{name}"] = torch.randn(width)
            if layer_scale:
                state |= {f"blocks.{number}.gamma_{branch}": torch.randn(width) for branch in (1, 2)}
            if bias == "per_block":
                state[f"blocks.{number}.attn.relative_position_bias_table"] = torch.randn(offsets, heads)
        norm = "fc_norm" if fine_tuned and not fairseq else "norm"
        return state | {f"{norm}.weight": torch.randn(width), f"{norm}.bias": torch.randn(width)}

    def front() -> State:
        cls, mask, conv = ("cls_emb", "mask_emb", "conv") if fairseq else ("cls_token", "mask_token", "proj")
        state = {
            cls: torch.randn(1, 1, width),
            f"patch_embed.{conv}.weight": torch.randn(width, 3, patch, patch),
            f"patch_embed.{conv}.bias": torch.randn(width),
        }
        if not fine_tuned:
            state[mask] = torch.randn(1, 1, width)
        if positions:
            state["pos_embed"] = torch.randn(1, 1 + grid[0] * grid[1], width)
        return state

    if fairseq:
        state = front() | {f"encoder.{name}": value for name, value in transformer().items()}
        if fine_tuned:  # mae_image_classification
            state |= {"head.weight": torch.randn(10, width), "head.bias": torch.randn(10)}
            state |= {"fc_norm.weight": torch.randn(width), "fc_norm.bias": torch.randn(width)}
        else:
            state |= {"final_proj.weight": torch.randn(width, width), "final_proj.bias": torch.randn(width)}
        return {"cfg": {"model": {"num_heads": heads}}, "model": state | ({"_ema": transformer()} if teacher else {})}
    end = (
        {"head.weight": (10, width), "head.bias": (10,)}
        if fine_tuned
        else {"lm_head.weight": (width, width), "lm_head.bias": (width,)}
    )
    content = {"model": front() | transformer() | {name: torch.randn(shape) for name, shape in end.items()}}
    if teacher:
        content["model_ema"] = front() | transformer() | {name: torch.randn(shape) for name, shape in end.items()}
    return content


def beit_args(depth: int, grid: tuple[int, int], **changes: Any) -> argparse.Namespace:
    """The arguments that run_cyclical.py stores beside the weights."""
    args = {
        "model": "beit_base_patch16_224",
        "target_layers": str(list(range(1, depth))),
        "layer_results": "end",
        "no_target_layer_norm_last": False,
        "post_target_layer_norm": True,
        "l1_beta": 2.0,
        "l2_loss": False,
        "num_mask_patches": 7,
        "min_mask_patches_per_block": 2,
        "max_mask_patches_per_block": None,
        "window_size": grid,
        "loss_scale": -1,
        "ema_decay_init": 0.999,
        "ema_decay": 0.9998,
        "ema_start_at": 0,
    }
    return argparse.Namespace(**{**args, **changes})


@pytest.fixture
def import_content(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a checkpoint to a file and run `d2v import` on it; returns the imported folder."""

    def run(content: Any, name: str = "model") -> Path:
        source, folder = tmp_path / f"{name}.pt", tmp_path / name
        torch.save(content, source)
        import_.run(argparse.Namespace(source=source, output=folder, dict=None, classes=None, tokenizer=None))
        return folder

    return run


@pytest.fixture
def make_v2_image() -> Callable[..., State]:
    return v2_image


@pytest.fixture
def make_v1_vision() -> Callable[..., State]:
    return v1_vision


@pytest.fixture
def make_beit_args() -> Callable[..., argparse.Namespace]:
    return beit_args


def values(state: dict[str, Tensor]) -> Tensor:
    """All values of some tensors, sorted: equal for two sets of tensors that hold the same in other shapes."""
    floats = [
        value.float().flatten() for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()
    ]
    return torch.cat(floats).sort().values


@pytest.fixture
def sorted_values() -> Callable[[dict[str, Tensor]], Tensor]:
    return values
