"""What fairseq's settings of speech become."""

from typing import Any

import pytest

from d2v.errors import UserError
from d2v.official.fairseq.v1 import span_masking
from d2v.official.speech_tensors import convolutions


@pytest.mark.parametrize(
    ("setting", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(512,2,2)]", [[512, 10, 5], [512, 3, 2], [512, 3, 2], [512, 2, 2]]),
        (" [(8, 10, 5), (8, 3, 2)] ", [[8, 10, 5], [8, 3, 2]]),
        ("2 * [[8, 10, 5]]", [[8, 10, 5]] * 2),
        ([(8, 10, 5)], [[8, 10, 5]]),
    ],
)
def test_layers_of_the_extractor(setting: Any, layers: list[list[int]]) -> None:
    assert convolutions(setting, "x") == layers


@pytest.mark.parametrize(
    "setting",
    [
        "", "[]", "5", "[(8, 10)]", "[(8, 10, 5)] - [(8, 3, 2)]", "[(8, 10, 0)]", "[(8, 10, True)]", "[('8', 10, 5)]",
        "[(8, 10, 5)] * 65", "[(8, 10, 5)] * 64 * 64", "[(8, 10, 5)] * 10 ** 9", "[(8, 10, 5) for i in [1]]",
        "open('x')", "x", "[" * 500, "[(8, 10, 5)] * -1", "\0", None, 3, {"a": 1}, [[8, 10]], "(" * 90 + ")" * 90,
    ],
)  # fmt: skip
def test_what_is_no_list_of_layers(setting: Any) -> None:
    with pytest.raises(UserError, match=r"x .*: no list of"):
        convolutions(setting, "x")


@pytest.mark.parametrize(("probability", "span"), [(0.65, 10), (0.5, 1)])
@pytest.mark.parametrize("shared_by", [11_875, None])
def test_span_masking(probability: float, span: int, shared_by: int | None) -> None:
    notes: list[str] = []
    masking = span_masking({"mask_prob": probability, "mask_length": span}, (0.65, 10), shared_by, notes)
    expected = {"mask_prob": probability, "span": span, "shared_by": shared_by, "inside": shared_by is not None}
    assert masking["init_args"] == expected
    assert notes == []


@pytest.mark.parametrize("settings", [{"mask_prob": 0.0}, {"mask_prob": "x"}, {"mask_length": 0}, {"mask_prob": 99}])
def test_span_masking_that_makes_no_sense(settings: dict[str, Any]) -> None:
    notes: list[str] = []
    assert span_masking(settings, (0.65, 10), None, notes)["init_args"]["mask_prob"] == 0.65
    assert "makes no sense" in notes[0]
