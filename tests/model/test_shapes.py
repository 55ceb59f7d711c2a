"""The shapes in signatures are checked while the tests run (the import hook of tests/conftest.py)."""

import pytest
import torch
from jaxtyping import TypeCheckError

from d2v.model.losses import RegressionLoss
from d2v.model.masked_input import gather_tokens
from d2v.nn.block import SelfAttention
from d2v.types import Mask, TokenSequence


def test_wrong_shapes_and_types_are_found_in_functions_methods_and_dataclasses():
    with pytest.raises(TypeCheckError):
        gather_tokens(torch.zeros(2, 5), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(TypeCheckError):
        RegressionLoss()(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(TypeCheckError):
        SelfAttention(8, 2)(torch.zeros(1, 3, 8), torch.zeros(1, 2, 3, 4))
    with pytest.raises(TypeCheckError):
        TokenSequence(torch.zeros(2, 3, 4), (3,), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(TypeCheckError):
        Mask(torch.zeros(2, 4), *(torch.zeros(2, 2, dtype=torch.long) for _ in range(2)), num_masks=1)
