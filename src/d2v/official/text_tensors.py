"""What the tensors of a text encoder tell, whoever trained it."""

from typing import Any

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official.imported import Recipe
from d2v.official.names import expect_shape, tensor, trunk_sizes

FRONT_END = "d2v.modalities.text.front_end.TextFrontEnd"
EXAMPLE = "encoder.embed(ids)  # token ids of <s> text </s>: [B, N] -> [B, {width}]"
PADDING_ID = 1
"""Of ``<pad>``, in every vocabulary of fairseq."""


def shown(front: dict[str, Any]) -> dict[str, Any]:
    """What is worth showing of a front end."""
    return {"vocabulary": front["vocab_size"], "longest text": front["max_positions"]}


def cut_positions(weights: StateDict, padding_id: int = PADDING_ID) -> None:
    """Take the rows out of the positions that no token reads: those up to the id of padding stand first. In place.

    fairseq, and transformers after it, number a text's tokens from ``padding_id + 1`` on.

    Raises:
        UserError: No rows are left, or it is no table.
    """
    for name, value in weights.items():
        if not name.endswith(".positions.table"):
            continue
        rows = expect_shape(value, 2, "table of positions")
        if len(rows) <= padding_id + 1:
            raise UserError(f"the checkpoint has {len(rows)} positions, of which the first {padding_id + 1} are unused")
        weights[name] = rows[padding_id + 1 :]


def student_recipe(weights: StateDict, trunk: dict[str, Any], **front: Any) -> Recipe:
    """Recipe of the student: what its tensors tell, and arguments of front end and trunk that the settings do.

    Raises:
        UserError: The embeddings or the first block are not whole.
    """
    vocab_size = len(tensor(weights, "student.front.feature_extractor.embedding.weight", dims=2))
    longest = len(tensor(weights, "student.front.positions.table", dims=2))
    front_end = node(FRONT_END, vocab_size=vocab_size, max_positions=longest, **front)
    return {"front": front_end, "trunk": {**trunk_sizes(weights), **trunk}}
