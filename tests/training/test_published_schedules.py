"""Recipes state shares of the run; at the published length they give the published steps, to the step."""

import importlib
from typing import Any

import pytest
import yaml
from test_contracts import merge

from d2v.configs import SHIPPED
from d2v.training.schedules import EMADecay, in_steps

# Files to stack: steps of the run, of the warm-up, of the anneal. [f1], [f2], [b], [m] are explained in the recipes.
PRETRAINING = {
    "vision.yaml": (500_000, 6_250, 0),  # [b] 800 and 10 epochs of 625 steps
    "vision.yaml sizes/large.yaml": (249_600, 24_960, 0),  # [b] 800 and 80 epochs of 312 steps
    "vision.yaml sizes/large.yaml sizes/large_second_run.yaml": (249_600, 12_480, 0),  # [b] 40 epochs of 312 steps
    "speech.yaml": (400_000, 12_000, 30_000),  # [f1] max_update, phase_ratio 0.03, ema_anneal_end_step
    "text.yaml": (1_000_000, 10_000, 300_000),  # [f1] max_update, warmup_updates, ema_anneal_end_step
    "text.yaml text_bert_masking.yaml": (1_000_000, 10_000, 300_000),
    "v2/vision.yaml": (375_300, 50_040, 100_000),  # [f2] the same keys
    "v2/audio.yaml": (400_000, 53_333, 100_000),  # EAT 06c1c34, config
    "v2/audio.yaml v2/sizes/audio_large.yaml": (400_000, 53_333, 150_000),
    "v2/vision.yaml v2/sizes/large.yaml": (375_300, 50_040, 150_000),
    "v2/vision.yaml v2/sizes/huge.yaml": (500_000, 50_040, 300_000),
    "v2/speech.yaml": (400_000, 8_000, 75_000),
    "v2/speech.yaml v2/sizes/speech_large.yaml": (600_000, 10_000, 300_000),
    "v2/emotion.yaml": (100_000, 5_000, 20_000),  # the authors' script, the same keys
    "v2/text.yaml": (1_000_000, 4_000, 100_000),
    "v2/text.yaml v2/sizes/text_large.yaml": (600_000, 4_000, 100_000),
    "learn/vision_cifar10.yaml": (1_500, 100, 750),  # ours, from here on
    "learn/speech_mini_librispeech.yaml": (3_000, 40, 200),
    "learn/text_imdb.yaml": (6_000, 100, 3_000),
    "demo/vision.yaml": (340, 34, 170),
    "demo/speech.yaml": (500, 40, 150),
    "demo/text.yaml": (1_200, 100, 0),
}
FINETUNING = {
    "finetune/imagenet.yaml": (125_100, 12_510),  # [b] 100 and 10 epochs of 1,251 steps
    "finetune/imagenet_v2.yaml": (250_200, 16_000),  # [m]
    "finetune/imagenet.yaml finetune/sizes/imagenet_large.yaml": (62_550, 6_255),  # [b] 50 and 5 epochs of 1,251 steps
    "finetune/imagenet_v2.yaml finetune/sizes/imagenet_v2_large.yaml": (125_200, 16_000),
    "finetune/imagenet_v2.yaml finetune/sizes/imagenet_v2_huge.yaml": (125_200, 16_000),
    "finetune/audioset.yaml": (30_000, 5_000),  # [a]
    "finetune/audioset_v2.yaml": (40_000, 4_000),  # EAT 06c1c34, scripts
    "finetune/esc50.yaml": (4_000, 400),
    "learn/vision_cifar10_finetune.yaml": (1_500, 100),
}
FROZEN = {  # [w] max_update, freeze_finetune_updates
    "finetune/librispeech_10m.yaml": (13_000, 10_000),
    "finetune/librispeech_1h.yaml": (13_000, 10_000),
    "finetune/librispeech_10h.yaml": (20_000, 10_000),
    "finetune/librispeech_100h.yaml": (80_000, 0),
    "finetune/librispeech_960h.yaml": (320_000, 0),
}


def load(stack: str) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in stack.split():
        config = merge(config, yaml.safe_load((SHIPPED / name).read_text()))
    return config


def warmup_of(config: dict[str, Any], total: int) -> int:
    node = config["model"]["init_args"]["schedule"]
    module, _, name = node["class_path"].rpartition(".")
    schedule = getattr(importlib.import_module(module), name)(**node["init_args"])
    assert schedule.factor(schedule.warmup_steps(total), total) == 1
    return schedule.warmup_steps(total)


@pytest.mark.parametrize("stack", PRETRAINING)
def test_pretraining(stack: str) -> None:
    config, (total, warmup, anneal) = load(stack), PRETRAINING[stack]
    assert config["trainer"]["max_steps"] == total
    assert warmup_of(config, total) == warmup
    ema = EMADecay(**config["model"]["init_args"]["ema"])
    assert in_steps(ema.anneal, total) == anneal
    in_whole_steps = EMADecay(ema.start, ema.end, anneal)
    for step in (1, anneal // 2 + 1, anneal, anneal + 1, total):
        assert ema.at(step, total) == in_whole_steps.at(step, total), "bit for bit"


@pytest.mark.parametrize("stack", FINETUNING)
def test_finetuning(stack: str) -> None:
    config, (total, warmup) = load(stack), FINETUNING[stack]
    assert config["trainer"]["max_steps"] == total
    assert warmup_of(config, total) == warmup


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_encoders(name: str) -> None:
    config, (total, frozen) = load(name), FROZEN[name]
    assert config["trainer"]["max_steps"] == total
    assert in_steps(config["model"]["init_args"]["freeze_encoder_steps"], total) == frozen
    assert warmup_of(config, total) == total // 10


def test_every_recipe_is_in_the_table_or_states_plain_shares() -> None:
    """But for those whose length follows from the size of the data."""
    listed = {stack.split()[-1] for stack in (*PRETRAINING, *FINETUNING)}
    for path in SHIPPED.rglob("*.yaml"):
        config = yaml.safe_load(path.read_text()) or {}
        args = (config.get("model") or {}).get("init_args", {})
        schedule = args.get("schedule", {})
        shares_alone = schedule.get("class_path", "").endswith(("TriStage", "WarmupLinear"))
        if config.get("media"):  # nobody has published a joint run
            continue
        if config.get("length") == "auto" or (config.get("trainer") or {}).get("max_epochs", -1) > 0:
            continue
        if "ema" in args or (schedule and not shares_alone):
            assert path.relative_to(SHIPPED).as_posix() in listed


def test_a_short_run_of_a_long_recipe() -> None:
    """The first hour: 60 steps of the recipe for ImageNet."""
    config = load("v2/vision.yaml")
    assert warmup_of(config, 60) == 8
    assert in_steps(config["model"]["init_args"]["ema"]["anneal"], 60) == 16
