"""What the tensors of a Vision Transformer tell, whoever trained it; of data2vec 1.0 also its names."""

import math
import re
from typing import Any

import torch
from torch import Tensor

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official.foreign_heads import take_classifier
from d2v.official.imported import Imported, Recipe
from d2v.official.names import by_rows, count, expect_shape, rename, tensor, trunk_sizes

FRONT_END = "d2v.modalities.vision.front_end.VisionFrontEnd"
EXAMPLE = "encoder.embed(pixels)  # normalised pixels [B, 3, H, W] -> [B, {width}]"

Grid = tuple[int, int]

_V1_ROWS = (
    (r"^patch_embed\.(?:proj|conv)\.", "front.feature_extractor.proj."),
    (r"^(?:cls_token|cls_emb)$", "front.cls_token"),
    (r"^(?:mask_token|mask_emb)$", "front.masked_input.mask_token"),
    (r"^pos_embed$", "front.positions"),  # CLS and patches in one; split below
    (r"^rel_pos_bias\.relative_position_bias_table$", "front.attention_bias.table"),
    (r"^blocks\.(\d+)\.attn\.relative_position_bias_table$", r"front.attention_bias.table.\1"),
    (r"^norm\.", "trunk.output_norm."),
    (r"^blocks\.", "trunk.blocks."),
)


def shown(front: dict[str, Any]) -> dict[str, Any]:
    """What is worth showing of a front end."""
    return {"patch": front["patch_size"], "image": front["image_size"]}


def patch_sizes(weights: StateDict) -> dict[str, Any]:
    """Arguments of a front end that the student's tensors tell.

    Raises:
        UserError: The patch embedding is missing.
    """
    _, in_channels, patch_size, _ = tensor(weights, "student.front.feature_extractor.proj.weight", dims=4).shape
    return {"patch_size": patch_size, "in_channels": in_channels}


def image_size(grid: Grid, patch_size: int) -> int | list[int]:
    """Size in pixels of a grid of patches, as a front end takes it."""
    rows, columns = grid
    if rows == columns:
        return rows * patch_size
    return [rows * patch_size, columns * patch_size]


def square(tokens: int) -> Grid:
    """The square grid of so many tokens.

    Raises:
        UserError: They are no square.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are no square: the grid of patches cannot be known")
    return side, side


# data2vec 1.0: data2vec_vision (BEiT's code), fairseq's port of it, and Hugging Face.


def v1_weights(state: dict[str, Any], prefix: str) -> tuple[StateDict, list[str]]:
    """An encoder's tensors in our names and shapes under ``prefix``, and the names that were left out."""
    weights, unknown = rename(without_index(state), by_rows(_V1_ROWS), prefix)
    reshape_v1(weights, prefix)
    table = f"{prefix}front.attention_bias.table"
    tables = pop_numbered(weights, f"{table}.")
    if tables:
        weights[table] = torch.stack(tables)  # [L, offsets + 3, H]
    elif table in weights:
        weights[table] = weights[table][None]  # [1, offsets + 3, H]
    if table in weights:
        expect_shape(weights[table], 3, "relative_position_bias_table")
    return weights, unknown


def without_index(state: dict[str, Any]) -> dict[str, Any]:
    """Official tensors without the index of the bias table, which is computed anew: BEiT's EMA had averaged it, so that
    the stored one can be wrong."""
    return {key: value for key, value in state.items() if not key.endswith("relative_position_index")}


def reshape_v1(weights: StateDict, prefix: str) -> None:
    """Bring CLS, the mask embedding and positions, which stand in one tensor with that of CLS, into our shapes. In
    place."""
    cls, mask = f"{prefix}front.cls_token", f"{prefix}front.masked_input.mask_token"
    positions = f"{prefix}front.positions"
    if cls in weights:
        weights[cls] = expect_shape(weights[cls], 3, "cls_token")[0]  # [1, 1, D] -> [1, D]
    if mask in weights:
        weights[mask] = expect_shape(weights[mask], 3, "mask_token")[0, 0]  # [1, 1, D] -> [D]
    if positions in weights:
        table = expect_shape(weights.pop(positions), 3, "table of positions")  # [1, 1 + N, D]
        weights[f"{positions}.cls_table"] = table[0, :1]
        weights[f"{positions}.table"] = table[0, 1:]


def pop_numbered(weights: StateDict, prefix: str) -> list[Tensor]:
    """Take out the tensors ``prefix0``, ``prefix1``, ..., which have one shape.

    Raises:
        UserError: They differ in shape.
    """
    tables: list[Tensor] = []
    for number in range(count(weights, re.escape(prefix) + r"(\d+)$")):
        tables.append(tensor(weights, f"{prefix}{number}", dims=2))
        del weights[f"{prefix}{number}"]
        if tables[-1].shape != tables[0].shape:
            raise UserError("the checkpoint's relative_position_bias_table differ in shape from block to block")
    return tables


def add_unused(found: Imported, prefix: str = "student.") -> None:
    """Give an encoder the mask embedding that it has no need of and its file does not hold, as that of a fine-tuned
    model does not: of zeros."""
    name = f"{prefix}front.masked_input.mask_token"
    if name not in found.weights:
        found.weights[name] = torch.zeros(found.width)
        if prefix == "student.":
            found.notes.append("there is no mask embedding, as fine-tuned models have none: it is zero")


def take_beit_classifier(found: Imported) -> None:
    """Take the head of BEiT's classifiers. One on the mean of the patches has a norm (``fc_norm``), and the encoder
    before it ends without; one on the CLS token has none. The norm of a linear probe has no weights."""
    state = found.state
    if "layer_log_weights" in state and "head.weight" in state:
        found.notes.append("the classifier is left out: it reads a weighted sum of all layers (layer_log_weights)")
        return
    if ends_without_norm(state) and "fc_norm.weight" not in state:
        state |= {"fc_norm.weight": torch.ones(found.width), "fc_norm.bias": torch.zeros(found.width)}
    if "fc_norm.weight" in state:
        take_classifier(found, {"norm": "fc_norm", "proj": "head"}, pool="mean")
    else:
        take_classifier(found, {"proj": "head"}, pool="cls")


def ends_without_norm(state: dict[str, Any]) -> bool:
    """Whether official tensors are of a model that was fine-tuned on the mean of its patches."""
    return "norm.weight" not in state and ("fc_norm.weight" in state or "head.weight" in state)


def find_grid(weights: StateDict, window: Any, patch_size: int) -> Grid:
    """(rows, columns) of patches that the student's tables are made for.

    Args:
        weights: With the student's tensors.
        window: The grid as the checkpoint's settings say it, or None; needed if it is not square.
        patch_size: In pixels.

    Raises:
        UserError: The grid is not square and the settings do not tell it.
    """
    said = tuple(window) if isinstance(window, (list, tuple)) and len(window) == 2 else None
    table, positions = weights.get("student.front.attention_bias.table"), weights.get("student.front.positions.table")
    if table is not None:
        offsets = table.shape[1] - 3  # (2 rows - 1) (2 columns - 1)
        if said and (2 * said[0] - 1) * (2 * said[1] - 1) == offsets:
            return said
        rows, columns = square(offsets)
        return (rows + 1) // 2, (columns + 1) // 2
    if positions is not None:
        if said and said[0] * said[1] == len(positions):
            return said
        return square(len(positions))
    return said or (224 // patch_size, 224 // patch_size)


def v1_student(weights: StateDict, grid: Grid, num_heads: int, **trunk: Any) -> Recipe:
    """Recipe of a 1.0 student: what its tensors tell, and ``trunk``, arguments that the settings do."""
    if "student.trunk.blocks.0.scale1.gamma" not in weights:
        trunk["layer_scale"] = None
    if "student.trunk.output_norm.weight" not in weights:
        trunk["output_norm"] = False
    table = weights.get("student.front.attention_bias.table")
    bias = None
    if table is not None:
        bias = "shared" if len(table) == 1 else "per_block"
    patches = patch_sizes(weights)
    front = node(
        FRONT_END,
        image_size=image_size(grid, patches["patch_size"]),
        **patches,
        masked_input="replace",
        positions="learned" if "student.front.positions.table" in weights else None,
        relative_bias=bias,
        num_cls=1,
    )
    key_bias = "student.trunk.blocks.0.attention.query_bias" not in weights
    fixed = {"num_heads": num_heads, "norm_first": True, "key_bias": key_bias, "weight_init": "beit"}
    trunk = {**trunk_sizes(weights), **fixed, **trunk}
    return {"front": front, "trunk": trunk}


def block_masking(settings: dict[str, Any], grid: Grid, notes: list[str]) -> Recipe:
    """Recipe of 1.0's masking; its number of patches is one on ``grid``.

    Args:
        settings: With ``num_mask_patches`` (75, the default of both codes) and the bounds of a block.
        grid: The model's.
        notes: Extended if the settings make no sense on the grid.
    """
    tokens = grid[0] * grid[1]
    num_patches = settings.get("num_mask_patches", 75)
    if not 0 < num_patches < tokens:
        notes.append(f"num_mask_patches {num_patches} does not suit {tokens} patches: the published 60% are taken")
        num_patches = max(1, round(0.6 * tokens))
    min_block = settings.get("min_mask_patches_per_block", 16)
    max_block = settings.get("max_mask_patches_per_block")
    most = num_patches if max_block is None else min(num_patches, max_block)
    if min_block > most:
        notes.append(f"min_mask_patches_per_block {min_block} does not suit blocks of at most {most}: {most} is taken")
        min_block = most
    return node(
        "d2v.model.masking.BlockMasking",
        num_patches=num_patches,
        grid=list(grid),
        min_block=min_block,
        max_block=max_block,
    )


def v1_num_heads(weights: StateDict, notes: list[str]) -> int:
    """H by the bias table, else as every published 1.0 ViT has it: heads of width 64."""
    table = weights.get("student.front.attention_bias.table")
    if table is not None:
        return table.shape[-1]
    heads = max(1, trunk_sizes(weights)["width"] // 64)
    notes.append(f"the number of heads is not in the file: taken as {heads}, which is heads of width 64")
    return heads
