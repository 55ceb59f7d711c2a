"""Verdicts follow from logged values alone."""

import dataclasses

import pytest

from d2v import metrics
from d2v.monitoring.faults import RULES, find_faults
from d2v.verdicts import History, Settings, Verdict

SETTINGS = Settings(
    total_steps=1000, peak_lr=1e-3, optimizer="AdamW", betas=(0.9, 0.95), weight_decay=0.05, clip=4.0
)  # fmt: skip
HEALTHY = {
    metrics.TRAIN_LOSS: 5.0,
    metrics.EXPLAINED: 0.2,
    metrics.TARGET_SIZE: 1.0,
    metrics.TARGET_STD: 0.97,
    metrics.EXTRACTOR_RANK: 20.0,
    metrics.MASKED_FRACTION: 0.5,
    metrics.GRAD_NORM: 2.0,
    metrics.UPDATE_SIZE: 0.01,
    metrics.WEIGHT_SIZE: 0.03,
    metrics.WEIGHT_GROWTH: 1.1,
    metrics.STILL_FRACTION: 0.01,
    metrics.TEACHER_RATE: 0.005,
    metrics.WAIT_FRACTION: 0.05,
    metrics.DUPLICATE_FRACTION: 0.0,
    metrics.DUPLICATE_FILES: 0.0,
    metrics.CONSTANT_FRACTION: 0.0,
    metrics.SAMPLES: 64.0,
    metrics.SKIPPED: 0.0,
}


def history(settings: Settings = SETTINGS, encoder: str = "", until: int = 200, **_: float) -> History:
    """Twenty logged steps of a run with a warm-up of fifty."""
    rows = []
    for step in range(10, until + 1, 10):
        row = {metrics.LEARNING_RATE: settings.peak_lr * min(step / 50, 1.0)}
        for metric, value in HEALTHY.items():
            row[metrics.of_encoder(metric, encoder if metric == metrics.TARGET_SIZE else "")] = value
        rows.append((step, row))
    return History(rows, settings)


def with_values(values: dict[str, float], **settings: object) -> History:
    found = history(dataclasses.replace(SETTINGS, **settings))  # type: ignore[arg-type]
    for _, row in found.rows:
        row.update(values)
    return found


def faults(found: History) -> list[str]:
    return [verdict.fault for verdict in find_faults(found)]


FAULTS = {
    "learning-rate-zero": ({metrics.LEARNING_RATE: 0.0}, {}),
    "learning-rate-too-high": ({metrics.UPDATE_SIZE: 3.0}, {"peak_lr": 0.5}),
    "no-warmup": ({metrics.LEARNING_RATE: 1e-3}, {}),
    "weights-still": ({metrics.STILL_FRACTION: 0.9}, {}),
    "gradients-cut": ({metrics.GRAD_NORM: 2.0}, {"clip": 1e-6}),
    "updates-too-small": ({metrics.UPDATE_SIZE: 1e-6}, {}),
    "updates-too-large": ({metrics.UPDATE_SIZE: 0.04, metrics.WEIGHT_SIZE: 0.05}, {}),
    "learns-nothing": ({metrics.EXPLAINED: -0.01}, {}),
    "teacher-too-fast": ({metrics.TEACHER_RATE: 1.0}, {}),
    "teacher-still": ({metrics.TEACHER_RATE: 0.0}, {}),
    "targets-not-normalised": ({metrics.TARGET_SIZE: 0.03}, {}),
    "mask-too-small": ({metrics.MASKED_FRACTION: 0.02}, {}),
    "mask-too-large": ({metrics.MASKED_FRACTION: 0.99}, {}),
    "repeated-inputs": ({metrics.DUPLICATE_FILES: 0.9}, {}),
    "constant-inputs": ({metrics.CONSTANT_FRACTION: 0.6}, {}),
    "alike-pictures": ({metrics.LIKENESS: 0.6}, {}),
    "few-tokens": ({metrics.TOKEN_TYPES: 3.0}, {}),
    "coarse-sound": ({metrics.LEVELS: 60.0}, {}),
    "clipped-sound": ({metrics.CLIPPED_FRACTION: 0.3}, {}),
    "sound-too-fast": ({metrics.PITCH: 320.0}, {}),
    "sound-too-slow": ({metrics.PITCH: 70.0}, {}),
    "spectrum-upside-down": ({metrics.HIGH_BANDS: 1.0}, {}),
    "pixels-not-normalised": ({metrics.PIXEL_LOW: 0.3, metrics.PIXEL_HIGH: 0.6}, {}),
    "padding": ({metrics.PADDING_FRACTION: 0.9}, {}),
    "small-batch": ({metrics.SAMPLES: 1.0}, {}),
    "fp16-overflow": ({metrics.SKIPPED_UPDATES: 100.0}, {"precision": "16-mixed"}),
    "not-finite": ({metrics.SKIPPED_UPDATES: 20.0}, {}),
    "loader-too-slow": ({metrics.WAIT_FRACTION: 0.9}, {}),
    "probe-says-nothing": ({metrics.LINEAR_TOP1: 100.0}, {}),
}


def test_nothing_is_said_of_a_healthy_run_at_any_step() -> None:
    for until in range(10, 201, 10):
        assert faults(history(until=until)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_alone_with_its_numbers_and_cure(fault: str) -> None:
    values, settings = FAULTS[fault]
    (verdict,) = find_faults(with_values(values, **settings))
    assert verdict.fault == fault
    assert verdict.step == 200
    assert len(verdict.cure) > 30
    assert "{" not in f"{verdict}"
    assert any(letter.isdigit() for letter in verdict.why)


@pytest.mark.parametrize(
    ("metric", "factor", "fault"),
    [
        (metrics.WEIGHT_SIZE, 0.8, "weights-shrink"),
        (metrics.WEIGHT_GROWTH, 1.2, "learning-rate-too-high"),
        (metrics.EXTRACTOR_RANK, 0.85, "extractor-collapse"),
    ],
)
def test_what_changes_too_fast_is_named(metric: str, factor: float, fault: str) -> None:
    found = history()
    for number, (_, row) in enumerate(found.rows):
        row[metric] *= factor**number
        row[metrics.UPDATE_SIZE] = (
            HEALTHY[metrics.UPDATE_SIZE] * HEALTHY[metrics.WEIGHT_SIZE] / row[metrics.WEIGHT_SIZE]
        )
        if metric == metrics.WEIGHT_SIZE and factor < 1:
            row[metrics.UPDATE_SIZE] = 0.05
    assert faults(found) == [fault]


def test_every_rule_has_a_test() -> None:
    tested = {*FAULTS, "weights-shrink", "extractor-collapse"}
    assert {rule.fault for rule in RULES} == tested


def test_limits_lie_beyond_the_worst_healthy_figure() -> None:
    for rule in RULES:
        assert not rule.limit.is_passed(rule.limit.worst), rule.fault


def test_speech_that_is_a_little_high_is_too_fast_only_if_its_spectrum_is_flat() -> None:
    assert faults(with_values({metrics.PITCH: 220.0, metrics.HIGH_BANDS: -1.0})) == []
    assert faults(with_values({metrics.PITCH: 220.0, metrics.HIGH_BANDS: -0.1})) == ["sound-too-fast"]


def test_a_run_that_goes_on_needs_no_warm_up_and_one_that_freezes_parts_may() -> None:
    assert faults(with_values({metrics.LEARNING_RATE: 1e-3}, first_step=500)) == []
    assert faults(with_values({metrics.STILL_FRACTION: 0.9}, freezes=True)) == []


def test_a_fault_of_one_encoder_of_several_bears_its_name() -> None:
    found = history(encoder="speech")
    for _, row in found.rows:
        row[f"{metrics.TARGET_SIZE}/text"] = 1.0
        row[f"{metrics.MASKED_FRACTION}/speech"], row[f"{metrics.MASKED_FRACTION}/text"] = 0.01, 0.5
        del row[metrics.MASKED_FRACTION]
        row[metrics.UPDATE_SIZE] = 0.0
    verdicts = {verdict.fault: verdict for verdict in find_faults(found)}
    assert set(verdicts) == {"mask-too-small/speech", "updates-too-small"}
    assert verdicts["mask-too-small/speech"].what.startswith("speech: ")


def test_numbers_that_are_none_are_no_fault() -> None:
    assert faults(with_values({metrics.PITCH: float("nan"), metrics.EXTRACTOR_RANK: float("nan")})) == []


def test_a_verdict_is_one_line() -> None:
    verdict = Verdict(1200, "no-warmup", "the learning rate has no warm-up", "it is 1", "Give one")
    assert f"{verdict}" == "step 1,200: the learning rate has no warm-up: it is 1. Give one"
    assert list(verdict.as_dict()) == ["step", "fault", "what", "why", "cure"]
