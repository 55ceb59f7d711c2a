"""From our names of tensors to Hugging Face's: the rows that their import reads, read backwards."""

import re
from collections.abc import Iterable

from torch import Tensor

from d2v.checkpoints.layout import StateDict

Rows = Iterable[tuple[str, str]]
"""(pattern of official names, replacement) as ``checkpoints/hugging_face/`` has them: groups, escaped dots, ^ and $."""


def official_names(weights: StateDict, rows: Rows) -> StateDict:
    """Rename tensors. Each must have a row: what the official model has no place for is refused before.

    Args:
        weights: By our names, without a prefix.
        rows: Of one model.
    """
    backwards = [_backwards(*row) for row in rows]
    return {_renamed(name, backwards): value for name, value in weights.items()}


def _renamed(name: str, backwards: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in backwards:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    raise ValueError(f"no official name for {name}")


def _backwards(pattern: str, replacement: str) -> tuple[re.Pattern[str], str]:
    """`^a\\.(\\d+)\\.b\\.` and `x.\\1.y.` to `^x\\.(\\d+)\\.y\\.` and `a.\\1.b.`"""
    groups = re.findall(r"\([^)]*\)", pattern)
    ours = re.escape(replacement)
    for number, group in enumerate(groups, 1):
        ours = ours.replace(rf"\\{number}", group)
    for number, group in enumerate(groups, 1):
        pattern = pattern.replace(group, rf"\{number}", 1)
    end = "$" if pattern.endswith("$") else ""
    return re.compile(f"^{ours}{end}"), pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")


def split_qkv(weights: StateDict) -> StateDict:
    """The joined projection of queries, keys and values as three: the opposite of ``layout.join_qkv``."""
    split: StateDict = {}
    for name, value in weights.items():
        if ".attention.qkv." not in name:
            split[name] = value
            continue
        parts: tuple[Tensor, ...] = value.chunk(3)
        split |= {name.replace(".qkv.", f".{letter}_proj."): part for letter, part in zip("qkv", parts, strict=True)}
    return split
