"""What a person is shown of an encoder's inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class ShownInputs:
    """Either pictures or texts of a batch of inputs."""

    pictures: Float[Tensor, "b c h w"] | None = None
    """0..1, C = 3 colours or 1 for levels that a palette colours. The grid of the tokens lies over each, those of a
    sequence from left to right."""
    turned: bool = False
    """Whether the first axis of the grid goes from left to right, and the second upwards: time and frequency."""
    texts: Sequence[Sequence[str]] | None = None
    """The text of each token of each input."""
