"""``Data2VecVisionModel`` of Hugging Face transformers and its models with a head, all data2vec 1.0."""

import re
from pathlib import Path
from typing import Any

import torch

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.layout import Imported, StateDict, count, expect_shape, first_match, join_qkv, rename, tensor
from d2v.data.normalisation import ASSET, read_normalisation
from d2v.errors import UserError
from d2v.official.beit import PUBLISHED, method
from d2v.official.hugging_face.classes import class_names, task
from d2v.official.vision import example, shown, sizes
from d2v.official.vision_v1 import add_unused, find_grid, student

MODEL_TYPE = "data2vec-vision"
WANTED = {"hidden_act": "gelu"}
"""The only values of these settings that d2v's encoder has."""

ENCODER_PARTS = (
    (r"^embeddings\.patch_embeddings\.projection\.", "feature_extractor.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.mask_token$", "masked_input.mask_token"),
    (r"^embeddings\.position_embeddings$", "positions"),  # CLS and patches in one; split below
    (r"^encoder\.relative_position_bias\.relative_position_bias_table$", "table.shared"),
    (
        r"^encoder\.layer\.(\d+)\.attention\.attention\.relative_position_bias\.relative_position_bias_table$",
        r"table.\1",
    ),
    (
        r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.weight$",
        r"transformer.blocks.\1.attention.q_proj.weight",
    ),
    (
        r"^encoder\.layer\.(\d+)\.attention\.attention\.key\.weight$",
        r"transformer.blocks.\1.attention.k_proj.weight",
    ),
    (
        r"^encoder\.layer\.(\d+)\.attention\.attention\.value\.weight$",
        r"transformer.blocks.\1.attention.v_proj.weight",
    ),
    (
        r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|value)\.bias$",
        r"transformer.blocks.\1.attention.\2_bias",
    ),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"transformer.blocks.\1.attention.proj."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"transformer.blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"transformer.blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"transformer.blocks.\1.mlp.0."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"transformer.blocks.\1.mlp.2."),
    (r"^encoder\.layer\.(\d+)\.lambda_([12])$", r"transformer.blocks.\1.scale\2.gamma"),
    (r"^layernorm\.", "transformer.output_norm."),
)
PREFIX = "data2vec_vision."
_SEGMENTATION = ("decode_head.", "auxiliary_head.", "fpn1.", "fpn2.")


def convert(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: With ``preprocessor_config.json``, if it says how pixels are normalised.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    state = {
        key.removeprefix(PREFIX): value
        for key, value in state.items()
        if not key.endswith("relative_position_index")  # computed anew; older versions store it
    }
    notes = ["the settings of the pretraining are not in the folder: those of the published Base run are taken"]

    weights, left_out = rename(state, lambda key: first_match(key, ENCODER_PARTS), "student.")
    join_qkv(weights)
    _reshape(weights)
    encoder = sizes(weights)
    if add_unused(weights, "student.", "masked_input.mask_token", 0.0):
        notes.append("the folder holds no mask embedding (use_mask_token): it is zero")
    grid = find_grid(weights, _window(config, encoder["patch_size"]), encoder["patch_size"])
    recipe = student(
        weights,
        grid,
        int(config.get("num_attention_heads", 12)),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        layer_scale=config.get("layer_scale_init_value", 0.1),
        dropout=config.get("hidden_dropout_prob", 0.0),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.0),
        drop_path=config.get("drop_path_rate", 0.1),
    )
    mean = "output_norm" in recipe["init_args"]  # use_mean_pooling: the norm comes after the mean
    if mean:
        notes.append("use_mean_pooling: the encoder ends without a norm, and so do its features; a classifier has one")
    outputs = len(state["classifier.bias"]) if "classifier.bias" in state else 0
    classifier = take_head(
        state,
        {"norm": "pooler.layernorm", "proj": "classifier"} if mean else {"proj": "classifier"},
        width=encoder["width"],
        pool="mean" if mean else "cls",
        left_out=left_out,
        notes=notes,
        names=class_names(config, outputs),
        task=task(config),
    )
    return Imported(
        layout="Hugging Face Data2VecVision (data2vec 1.0)" + _kind(state),
        licence="as its model card says (the published ones: Apache 2.0 there, CC-BY-NC 4.0 at their source)",
        method=method(recipe, PUBLISHED, grid, notes),
        ema={"start": 0.9998, "end": 0.9998, "anneal_steps": 0},
        weights=weights,
        example=example(encoder["width"]),
        sizes=shown(recipe),
        classifier=classifier,
        assets=_normalisation(folder, notes),
        left_out=left_out,
        notes=notes,
    )


def _normalisation(folder: Path, notes: list[str]) -> dict[str, str]:
    """The asset that says how pixels are normalised, if the folder does; else a note."""
    try:
        found = read_normalisation({ASSET: (folder / ASSET).read_text(encoding="utf-8")})
    except (OSError, ValueError):
        found = None
    if found is None:
        notes.append(f"no {ASSET} says how pixels are normalised: by ImageNet's mean and deviation")
        return {}
    return {ASSET: found.to_asset()}


def _reshape(weights: StateDict) -> None:
    """Bring what official tensors have in other shapes into ours, in place.

    The biases of relative position add up where a model has both a table for all blocks and one a block.
    """
    for name, index in (("student.cls_token", 0), ("student.masked_input.mask_token", (0, 0))):
        if name in weights:
            weights[name] = expect_shape(weights[name], 3, name)[index]  # [1, 1, D] -> [1, D] or [D]
    positions = weights.pop("student.positions", None)
    if positions is not None:
        expect_shape(positions, 3, "position_embeddings")  # [1, 1 + N, D]
        weights["student.positions.cls_table"] = positions[0, :1]
        weights["student.positions.table"] = positions[0, 1:]
    shared = weights.pop("student.table.shared", None)
    numbers = sorted(int(match[1]) for name in weights if (match := re.fullmatch(r"student\.table\.(\d+)", name)))
    own = [weights.pop(f"student.table.{number}") for number in numbers]
    tables = own if shared is None else [shared, *own]
    if not tables:
        return
    depth = count(weights, r"student\.transformer\.blocks\.(\d+)\.")
    if len({table.shape for table in tables}) > 1 or len(own) not in (0, depth):
        raise UserError("the relative_position_bias_table differ in shape from block to block, or one is missing")
    table = torch.stack(own or [tables[0]])  # [1 or L, offsets + 3, H]
    weights["student.attention_bias.table"] = table + shared if own and shared is not None else table
    tensor(weights, "student.attention_bias.table", dims=3)


def _window(config: dict[str, Any], patch_size: int) -> tuple[int, int] | None:
    """(rows, columns) of patches that ``image_size`` says."""
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height // patch_size, width // patch_size


def _kind(state: dict[str, Any]) -> str:
    if any(key.startswith(_SEGMENTATION) for key in state):
        return ", fine-tuned for segmentation"
    return ", fine-tuned" if "classifier.weight" in state else ""
