"""The accumulation that a recipe's batch needs, and what is said when there is none."""

import re

import pytest

from d2v.data.batching import derive_accumulation
from d2v.errors import UserError


@pytest.mark.parametrize(
    ("batch", "total", "world", "user", "expected"), [(64, 512, 4, 1, 2), (64, 512, 4, 2, 2), (8, None, 4, 3, 3)]
)
def test_accumulation(batch: int, total: int | None, world: int, user: int, expected: int) -> None:
    assert derive_accumulation(batch, total, world, user) == expected


def test_a_batch_that_cannot_be_met_names_the_keys_and_what_works() -> None:
    with pytest.raises(UserError) as error:
        derive_accumulation(64, 500, 4)
    message = str(error.value)
    assert "data.global_batch_size 500" in message
    assert "data.batch_size 64" in message
    assert "data.global_batch_size to 256 or 512" in message
    assert "data.batch_size to 25 or 125" in message
    for total, batch in ((256, 64), (512, 64), (500, 25), (500, 125)):
        derive_accumulation(batch, total, 4)


def test_a_contradicting_trainer_and_senseless_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=re.escape("trainer.accumulate_grad_batches is 4")):
        derive_accumulation(64, 512, 4, set_by_user=4)
    with pytest.raises(UserError, match=r"data\.batch_size is 0"):
        derive_accumulation(0, None, 1)
    with pytest.raises(UserError, match=r"data\.global_batch_size to 256, or data\.batch_size to 10"):
        derive_accumulation(64, 40, 4)
