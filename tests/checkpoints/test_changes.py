"""An encoder at another size of pictures than it was trained at, and without its output norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_load import make, save

import d2v
from d2v.errors import UserError
from d2v.model.encoder import Encoder

V1 = {"masked_input": "replace", "positions": None, "relative_bias": "shared", "norm_first": True}


def saved(folder: Path, **student: Any) -> tuple[Path, Encoder]:
    torch.manual_seed(0)
    method = make(**student)
    with torch.no_grad():
        for value in method.student.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return save(method, folder / "a.ckpt"), method.student.eval()


@pytest.mark.parametrize("student", [{}, {"positions": "learned"}, V1], ids=["sincos", "learned", "bias"])
@pytest.mark.parametrize("size", [24, (12, 20)])
def test_tables_are_resized_as_a_forward_pass_would(tmp_path: Path, student: dict[str, Any], size: Any) -> None:
    path, trained = saved(tmp_path, **student)
    pixels = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    changed = d2v.load(path, image_size=size)
    torch.testing.assert_close(changed(pixels).tokens, trained(pixels).tokens, atol=1e-5, rtol=1e-5)
    shapes = [{name: value.shape for name, value in encoder.state_dict().items()} for encoder in (changed, trained)]
    assert len({name for name in shapes[0] if shapes[0][name] != shapes[1][name]}) == 1, "one table has another size"
    small = torch.randn(1, 3, 16, 16)  # back at the old size little is lost
    difference = (changed(small).tokens - trained(small).tokens).abs().mean()
    assert difference < 0.25 * trained(small).tokens.std()


def test_the_output_norm_can_go(tmp_path: Path) -> None:
    path, trained = saved(tmp_path, **V1)
    pixels = torch.randn(2, 3, 16, 16)
    changed = d2v.load(path, output_norm=False)
    torch.testing.assert_close(changed(pixels).tokens, trained(pixels).layers[-1])
    with pytest.raises(UserError, match=r"positions\.table is unknown"):
        d2v.load(saved(tmp_path, positions="learned")[0], positions=None)
