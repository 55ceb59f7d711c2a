"""What reading a text encoder's tensors needs, whoever trained it."""

from typing import Any

from d2v.checkpoints.layout import StateDict, count, expect_shape, mlp_ratio, tensor
from d2v.checkpoints.recipe import node
from d2v.errors import UserError

PADDING_ID = 1
"""Of ``<pad>``, in every vocabulary of fairseq."""


def cut_positions(weights: StateDict, padding_id: int = PADDING_ID) -> None:
    """Take the rows out of the positions that no token reads: those up to the id of padding stand first. In place.

    fairseq, and transformers after it, number a text's tokens from ``padding_id + 1`` on.

    Raises:
        UserError: No rows are left, or it is no table.
    """
    for name in [name for name in weights if name.endswith(".positions.table")]:
        rows = expect_shape(weights[name], 2, "table of positions")
        if len(rows) <= padding_id + 1:
            raise UserError(f"the checkpoint has {len(rows)} positions, of which the first {padding_id + 1} are unused")
        weights[name] = rows[padding_id + 1 :]


def student(weights: StateDict, num_heads: int, **init_args: Any) -> dict[str, Any]:
    """Recipe of the student: what its tensors tell, and ``init_args``.

    Raises:
        UserError: The embeddings or the first block are not whole.
    """
    vocab_size, width = tensor(weights, "student.feature_extractor.embedding.weight", dims=2).shape
    hidden = len(tensor(weights, "student.transformer.blocks.0.mlp.0.weight", dims=2))
    return node(
        "d2v.modalities.text.front_end.TextEncoder",
        vocab_size=vocab_size,
        width=width,
        depth=count(weights, r"student\.transformer\.blocks\.(\d+)\."),
        num_heads=num_heads,
        max_positions=len(tensor(weights, "student.positions.table", dims=2)),
        mlp_ratio=mlp_ratio(hidden, width),
        **init_args,
    )


def shown(student: dict[str, Any]) -> dict[str, Any]:
    """``Imported.sizes`` of a student's recipe."""
    return {"vocabulary": student["init_args"]["vocab_size"], "longest text": student["init_args"]["max_positions"]}


def example(width: int) -> str:
    """``Imported.example``."""
    return f"encoder.embed(ids)  # token ids of <s> text </s>: [B, N] -> [B, {width}]"
