"""data2vec 1.0 vision: what the checkpoints of data2vec_vision (BEiT's code) and of fairseq's port have in common."""

import re
from typing import Any

import torch
from torch import Tensor

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.layout import ImportedClassifier, StateDict, expect_shape, first_match, rename
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official.vision import image_size, sizes, square

Grid = tuple[int, int]

_ENCODER_PARTS = (
    (r"^patch_embed\.(?:proj|conv)\.", "feature_extractor.proj."),
    (r"^(?:cls_token|cls_emb)$", "cls_token"),
    (r"^(?:mask_token|mask_emb)$", "masked_input.mask_token"),
    (r"^pos_embed$", "positions"),  # CLS and patches in one; split below
    (r"^rel_pos_bias\.relative_position_bias_table$", "attention_bias.table"),
    (r"^blocks\.(\d+)\.attn\.relative_position_bias_table$", r"attention_bias.table.\1"),
    (r"^norm\.", "transformer.output_norm."),
    (r"^blocks\.", "transformer.blocks."),
)


def encoder_weights(state: dict[str, Any], prefix: str) -> tuple[StateDict, list[str]]:
    """An encoder's tensors in our names and shapes under ``prefix``, and the names that were left out."""
    # The index of the bias table is computed anew; BEiT's EMA had averaged it, so the stored one can be wrong.
    state = {key: value for key, value in state.items() if not key.endswith("relative_position_index")}
    weights, unknown = rename(state, lambda key: first_match(key, _ENCODER_PARTS), prefix)

    cls, mask, table = (prefix + name for name in ("cls_token", "masked_input.mask_token", "attention_bias.table"))
    if cls in weights:
        weights[cls] = expect_shape(weights[cls], 3, "cls_token")[0]  # [1, 1, D] -> [1, D]
    if mask in weights:
        weights[mask] = expect_shape(weights[mask], 3, "mask_token")[0, 0]  # [1, 1, D] -> [D]
    positions = weights.pop(prefix + "positions", None)
    if positions is not None:
        expect_shape(positions, 3, "pos_embed")  # [1, 1 + N, D]
        weights[prefix + "positions.cls_table"] = positions[0, :1]
        weights[prefix + "positions.table"] = positions[0, 1:]
    per_block = sorted((int(name.rpartition(".")[2]), name) for name in weights if name.startswith(f"{table}."))
    if per_block:
        tables = [weights.pop(name) for _, name in per_block]
        if {value.shape for value in tables} != {tables[0].shape}:
            raise UserError("the checkpoint's relative_position_bias_table differ in shape from block to block")
        weights[table] = torch.stack(tables)  # [L, offsets + 3, H]
    elif table in weights:
        weights[table] = weights[table][None]  # [1, offsets + 3, H]
    if table in weights:
        expect_shape(weights[table], 3, "relative_position_bias_table")
    return weights, unknown


def add_unused(weights: StateDict, prefix: str, name: str, value: float) -> bool:
    """Give an encoder the tensor [D] that it has no need of and its file does not hold; returns whether it was missing.

    Fine-tuned models have no mask embedding, for instance.
    """
    if prefix + name in weights:
        return False
    width = len(weights["student.feature_extractor.proj.weight"])
    weights[prefix + name] = torch.full((width,), value)
    return True


def take_classifier(
    state: dict[str, Any], weights: StateDict, left_out: list[str], notes: list[str]
) -> ImportedClassifier | None:
    """The head of BEiT's classifiers. One on the mean of the patches has a norm (``fc_norm``), and the encoder before
    it ends without; one on the CLS token has none. The norm of a linear probe has no weights.

    Args:
        state: Official tensors.
        weights: With the student's.
        left_out: Loses the head's names if it is taken.
        notes: Extended if it cannot be.
    """
    if "layer_log_weights" in state and "head.weight" in state:
        notes.append("the classifier is left out: it reads a weighted sum of all layers (layer_log_weights)")
        return None
    width = sizes(weights)["width"]
    if ends_without_norm(state) and "fc_norm.weight" not in state:
        state = {**state, "fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
    norm = {"norm": "fc_norm"} if "fc_norm.weight" in state else {}
    return take_head(
        state,
        {**norm, "proj": "head"},
        width=width,
        pool="mean" if norm else "cls",
        left_out=left_out,
        notes=notes,
    )


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
    table, positions = weights.get("student.attention_bias.table"), weights.get("student.positions.table")
    if table is not None:
        offsets = table.shape[1] - 3  # (2 rows - 1) (2 columns - 1)
        if said and (2 * said[0] - 1) * (2 * said[1] - 1) == offsets:
            return said
        rows, columns = square(offsets)
        return (rows + 1) // 2, (columns + 1) // 2
    if positions is not None:
        return said if said and said[0] * said[1] == len(positions) else square(len(positions))
    return said or (224 // patch_size, 224 // patch_size)


def student(weights: StateDict, grid: Grid, num_heads: int, **init_args: Any) -> dict[str, Any]:
    """Recipe of the student: what its tensors tell, and ``init_args``."""
    table = weights.get("student.attention_bias.table")
    has_scale = "student.transformer.blocks.0.scale1.gamma" in weights
    if not has_scale:
        init_args["layer_scale"] = None
    if "student.transformer.output_norm.weight" not in weights:
        init_args["output_norm"] = False
    encoder = sizes(weights)
    return node(
        "d2v.modalities.vision.front_end.VisionEncoder",
        image_size=image_size(grid, encoder["patch_size"]),
        num_heads=num_heads,
        masked_input="replace",
        positions="learned" if "student.positions.table" in weights else None,
        relative_bias=None if table is None else "shared" if len(table) == 1 else "per_block",
        norm_first=True,
        num_cls=1,
        key_bias="student.transformer.blocks.0.attention.query_bias" not in weights,
        **encoder,
        **init_args,
    )


def block_masking(settings: dict[str, Any], grid: Grid, notes: list[str]) -> dict[str, Any]:
    """Recipe of the masking; its number of patches is one on ``grid``.

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
    return node(
        "d2v.model.masking.BlockMasking",
        num_patches=num_patches,
        grid=list(grid),
        min_block=settings.get("min_mask_patches_per_block", 16),
        max_block=settings.get("max_mask_patches_per_block"),
    )


def num_heads(weights: StateDict, notes: list[str]) -> int:
    """H by the bias table, else as every published 1.0 ViT has it: heads of width 64."""
    table: Tensor | None = weights.get("student.attention_bias.table")
    if table is not None:
        return table.shape[-1]
    width = sizes(weights)["width"]
    notes.append(f"the number of heads is not in the file: taken as {max(1, width // 64)}, which is heads of width 64")
    return max(1, width // 64)


def block_numbers(layers: Any) -> list[int]:
    """A list of block numbers, which BEiT's command line takes and stores as a string."""
    if isinstance(layers, str):
        return [int(number) for number in re.findall(r"-?\d+", layers)]
    return list(layers) if isinstance(layers, (list, tuple)) else []
