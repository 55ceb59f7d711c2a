"""Rows of a table that `d2v test` and `d2v predict` write, one a sample."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """What a module has to say about the samples of a batch."""

    sample_ids: Tensor
    """[B]; the command puts the samples' names in their place."""
    columns: tuple[str, ...]
    values: Sequence[tuple[str, ...]]
    """A text for each column, a tuple a sample; tabs and line breaks in them become spaces."""
