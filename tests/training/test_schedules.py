"""Schedules against numbers of the official code (fairseq 3d262bb), made by running it."""

import itertools
from pathlib import Path

import pytest

from d2v.errors import UserError
from d2v.training.schedules import EMADecay, TriStage, WarmupCosine, WarmupLinear

MISC = Path(__file__).parents[2].parent / "shared" / "reference" / "fixtures" / "misc.pt"

# cosine: lr 7.5e-4, 8,000 warm-up updates of 400,000
COSINE = {
    0: 0.0,
    1: 9.375e-08,
    100: 9.375000000000001e-06,
    7999: 0.00074990625,
    8000: 0.00075,
    8001: 0.0007499999999879571,
    100000: 0.0006526042489032433,
    204000: 0.000375,
    399999: 1.2042825070501806e-14,
}
COSINE_AT_THE_END = 7.500000000000001e-05  # fairseq begins a second cycle there, at lr_shrink times the peak
# tri_stage: lr 5e-4, phases 0.03, 0.9, 0.07 of 400,000, scales 0.01
TRI_STAGE = {
    0: 5e-06,
    1: 5.04125e-06,
    100: 9.125000000000002e-06,
    11999: 0.00049995875,
    12000: 0.0005,
    12001: 0.0005,
    200000: 0.0005,
    371999: 0.0005,
    372000: 0.0005,
    372001: 0.0004999177715803618,
    386000: 5.000000000000001e-05,
    400000: 5.000000000000002e-06,
    400001: 5e-06,
}
ANNEALED = [
    (0.999, 0.99999, 75000, {0: 0.999, 1: 0.9990000132, 10: 0.999000132, 37500: 0.999495, 74999: 0.9999899868, 75000: 0.99999, 75005: 0.99999}),
    (0.9998, 0.99999, 100000, {0: 0.9998, 1: 0.9998000019, 50000: 0.999895, 99999: 0.9999899981, 100005: 0.99999}),
    (0.999, 0.9999, 30000, {0: 0.999, 1: 0.99900003, 15000: 0.99945, 29999: 0.99989997, 30000: 0.9999}),
]  # fmt: skip


def test_the_numbers_here_are_those_of_the_fixture():
    if not MISC.is_file():
        pytest.skip(f"no {MISC}")
    import torch

    misc = torch.load(MISC, weights_only=True)
    assert misc["lr_cosine"]["values"] == {**COSINE, 400000: COSINE_AT_THE_END}
    assert misc["lr_tri_stage"]["values"] == TRI_STAGE
    for (start, end, total, values), theirs in zip(ANNEALED, misc["annealed_rate"], strict=True):
        assert (start, end, total) == (theirs["start"], theirs["end"], theirs["total"])
        assert {step: theirs["values"][step] for step in values} == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize("step", COSINE)
def test_cosine(step):
    # Half a cosine near its end is 1 - 1 + 2e-17: what is left of it is the rounding of 1 + cos.
    absolute = 1e-16 if step == 399999 else 0.0
    assert 7.5e-4 * WarmupCosine(8000).factor(step, 400000) == pytest.approx(COSINE[step], rel=1e-9, abs=absolute)


def test_cosine_ends_where_it_should_and_stays_there():
    schedule = WarmupCosine(8000, start_factor=0.1, end_factor=0.05)
    assert schedule.factor(0, 400000) == 0.1
    assert schedule.factor(4000, 400000) == pytest.approx(0.55)
    assert schedule.factor(8000, 400000) == 1
    assert schedule.factor(204000, 400000) == pytest.approx(0.525)
    assert schedule.factor(400000, 400000) == schedule.factor(500000, 400000) == pytest.approx(0.05)
    assert WarmupCosine(8000).factor(400000, 400000) == 0
    assert WarmupCosine(0).factor(0, 100) == 1
    assert WarmupCosine(10).factor(10, 10) == 1, "a run that is all warm-up ends at the peak"


@pytest.mark.parametrize("step", TRI_STAGE)
def test_tri_stage(step):
    assert 5e-4 * TriStage(0.03, 0.9, 0.07).factor(step, 400000) == pytest.approx(TRI_STAGE[step], rel=1e-9)


@pytest.mark.parametrize("schedule", [WarmupCosine(8000), TriStage(0.03, 0.9, 0.07), TriStage(0.3, 0.7, 0.0)])
def test_schedules_make_no_jumps(schedule):
    factors = [schedule.factor(step, 20000) for step in range(20001)]
    assert min(factors) >= 0
    assert max(factors) == 1
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) < 0.004


@pytest.mark.parametrize(("start", "end", "total", "values"), ANNEALED)
def test_annealed_decay(start, end, total, values):
    decay = EMADecay(start, end, total)
    for step, value in values.items():
        assert decay.at(step, 400_000) == pytest.approx(value, rel=1e-12)
    # What enters the average is 1 - decay: it must hold to more than the digits of a number near 1.
    assert 1 - decay.at(1, 400_000) == pytest.approx((1 - start) - (end - start) / total, rel=1e-9)


def test_constant_decay():
    assert EMADecay(0.9998, 0.9998, 0).at(1, 9) == EMADecay(0.5, 0.9998, 0).at(0, 9) == 0.9998


def test_errors():
    with pytest.raises(UserError, match="warmup is -1: give a share of the run, from 0 to below 1, or whole steps"):
        WarmupCosine(-1)
    with pytest.raises(ValueError, match=r"shares of the run that add up to 1, not 0\.1, 0\.9 and 0\.1"):
        TriStage(0.1, 0.9, 0.1)
    with pytest.raises(ValueError, match="end_factor"):
        TriStage(0.1, 0.8, 0.1, end_factor=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMADecay(0.9, 1.1, 10)
    for start, anneal in ((1, 10), (0.9, 0)):
        with pytest.raises(ValueError, match="the teacher would never move"):
            EMADecay(start, 1, anneal)
    assert EMADecay(0.9997, 1, 10).at(10, 20) == 1, "published ones end there"


def test_linear_decay_begins_where_the_recipes_of_glue_have_it():
    """fairseq 3d262bb, examples/data2vec/config/v2/text_finetuning: warmup_updates and max_update."""
    for warmup, total in ((320, 5336), (1256, 20935), (137, 2296), (7432, 123873), (1986, 33112), (122, 2036)):
        schedule = WarmupLinear(0.06)
        assert schedule.factor(warmup, total) == 1
        assert schedule.factor(warmup - 1, total) == pytest.approx(1 - 1 / warmup)
        # polynomial_decay_schedule.py, with power 1: the share of the updates after the warm-up that are left
        assert schedule.factor(warmup + 100, total) == pytest.approx(1 - 100 / (total - warmup))
        assert schedule.factor(0, total) == schedule.factor(total, total) == 0
    assert WarmupLinear(0.25).factor(28318, 113272) == 1
    assert WarmupLinear(0).factor(0, 10) == 1
    with pytest.raises(ValueError, match="less than 1"):
        WarmupLinear(1.0)
