"""Recipes have the values of the official configs, written here as those state them.

[f1] fairseq 3d262bb, examples/data2vec/config/{audio,text}/pretraining; [f2] config/v2; [m] config/vision/finetuning
and models/mae_image_classification.py; [a] config/audio/classification; [w] examples/wav2vec/config/finetuning;
[e] EAT 06c1c34, config; [b] data2vec_vision af9a363, beit/README.md, run_cyclical.py and run_class_finetuning.py.
"""

from typing import Any

import pytest
from test_published_schedules import FROZEN, load

from d2v.configs import SHIPPED

ADAM = {"optimizer.eps": 1e-8, "start_lr": 0.0, "end_lr": 0.0, "clip": None, "precision": "bf16-mixed"}

V1_VISION = {  # [b] ViT-B
    "optimizer.lr": 2e-3, "optimizer.betas": [0.9, 0.999], "optimizer.weight_decay": 0.05, "end_lr": 1e-5, "clip": 3.0,
    "batch": 128, "global_batch": 16 * 128, "ema.start": 0.9998, "ema.end": 0.9998, "trunk.drop_path": 0.25,
    "trunk.attention_dropout": 0.05, "trunk.layer_scale": 1e-4, "masking.num_patches": 120, "masking.min_block": 16,
    "masking.max_block": 196, "targets.top_k": 6, "targets.source": "end", "loss.beta": 2.0, "data.color_jitter": 0.4,
}  # fmt: skip
V1_VISION_LARGE = V1_VISION | {
    "optimizer.lr": 1e-3, "batch": 64, "global_batch": 64 * 64, "trunk.drop_path": 0.2, "trunk.attention_dropout": 0.15,
    "trunk.layer_scale": 1e-5, "trunk.width": 1024, "trunk.depth": 24, "trunk.num_heads": 16,
}  # fmt: skip
V1_SPEECH = {  # [f1]
    "optimizer.lr": 5e-4, "optimizer.betas": [0.9, 0.98], "optimizer.eps": 1e-6, "optimizer.weight_decay": 0.01,
    "start_lr": 5e-6, "end_lr": 5e-6, "batch": 3_800_000 / 16_000, "global_batch": 16 * 3_800_000 / 16_000,
    "ema.start": 0.999, "ema.end": 0.9999, "trunk.layer_drop": 0.05, "trunk.dropout": 0.1, "masking.span": 10,
    "targets.top_k": 8, "targets.layer_norm": "instance", "data.max_seconds": 320_000 / 16_000,
    "data.min_seconds": 32_000 / 16_000, "schedule.warmup": 0.03, "schedule.hold": 0.9, "schedule.decay": 0.07,
}  # fmt: skip
V1_TEXT = {  # [f1]
    "optimizer.lr": 2e-4, "optimizer.betas": [0.9, 0.98], "optimizer.eps": 1e-6, "optimizer.weight_decay": 0.01,
    "clip": 5.0, "batch": 8192, "global_batch": 16 * 8192, "ema.start": 0.999, "ema.end": 0.9999, "trunk.dropout": 0.1,
    "trunk.attention_dropout": 0.1, "masking.span": 4, "targets.top_k": 10, "targets.layer_norm": "layer",
    "loss.beta": 4.0, "loss.reduction": "sum", "data.break_mode": "complete_doc", "data.block_size": 512,
}  # fmt: skip
V2_VISION = {  # [f2]; the global batch is inferred, see the recipe
    "optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.95], "optimizer.weight_decay": 0.05, "clip": 4.0, "batch": 16,
    "global_batch": 512, "ema.start": 0.9998, "ema.end": 0.99999, "trunk.depth": 10, "front.prenet_depth": 2,
    "masking.mask_ratio": 0.8, "masking.adjust": 0.07, "masking.block_size": 3, "num_masks": 16, "targets.top_k": 10,
    "targets.layer_norm": "instance", "targets.mean_norm": "layer", "head.decoder_width": 768, "head.num_layers": 6,
    "head.kernel_size": 3, "head.groups": 16, "head.mask_noise": 0.01, "cls_loss.weight": 0.01,
    "cls_loss.rows": 16 * 16,
}  # fmt: skip
V2_VISION_LARGE = V2_VISION | {
    "optimizer.lr": 4e-4, "batch": 8, "trunk.width": 1024, "trunk.depth": 24, "trunk.num_heads": 16,
    "front.prenet_depth": 0, "masking.mask_ratio": 0.75, "masking.adjust": 0.1, "targets.top_k": 18,
    "head.decoder_width": 1024, "head.num_layers": 3, "head.kernel_size": 5, "cls_loss.rows": 8 * 16,
}  # fmt: skip
V2_VISION_HUGE = V2_VISION_LARGE | {
    "trunk.width": 1280, "trunk.depth": 32, "targets.top_k": 24, "ema.end": 1.0, "front.patch_size": 14,
    "global_batch": 32 * 8,
}  # fmt: skip
V2_SPEECH = {  # [f2]
    "optimizer.lr": 7.5e-4, "optimizer.betas": [0.9, 0.98], "optimizer.eps": 1e-6, "optimizer.weight_decay": 0.01,
    "batch": 1_000_000 / 16_000, "global_batch": 8 * 1_000_000 / 16_000, "ema.start": 0.999, "ema.end": 0.99999,
    "trunk.layer_drop": 0.05, "trunk.depth": 12, "front.prenet_depth": 0, "masking.mask_ratio": 0.5,
    "masking.adjust": 0.05, "masking.span": 5, "num_masks": 8, "targets.top_k": 8, "targets.mean_norm": None,
    "head.decoder_width": 384, "head.num_layers": 4, "head.kernel_size": 7, "head.groups": 16,
    "head.input_dropout": 0.1, "data.max_seconds": 320_000 / 16_000, "data.min_seconds": 32_000 / 16_000,
}  # fmt: skip
V2_SPEECH_LARGE = V2_SPEECH | {
    "optimizer.lr": 4e-4, "clip": 1.0, "batch": 320_000 / 16_000, "global_batch": 48 * 320_000 / 16_000,
    "ema.start": 0.9997, "ema.end": 1.0, "trunk.layer_drop": 0.0, "trunk.width": 1024, "trunk.depth": 16,
    "trunk.num_heads": 16, "front.prenet_depth": 8, "masking.mask_ratio": 0.55, "masking.adjust": 0.1, "num_masks": 12,
    "targets.top_k": 16, "head.decoder_width": 768,
}  # fmt: skip
EMOTION = V2_SPEECH | {  # [e] the authors' script of emotion2vec, over [f2]
    "optimizer.lr": 7.5e-5, "batch": 600_000 / 16_000, "global_batch": 4 * 6 * 600_000 / 16_000, "trunk.depth": 8,
    "front.prenet_depth": 4, "front.num_cls": 10, "cls_loss.weight": 1.0, "cls_loss.tokens": "mean",
    "data.min_seconds": 8_000 / 16_000,
}  # fmt: skip
V2_TEXT = {  # [f2]
    "optimizer.lr": 2e-4, "optimizer.betas": [0.9, 0.98], "optimizer.eps": 1e-6, "optimizer.weight_decay": 0.01,
    "clip": 1.0, "batch": 4 * 512, "global_batch": 16 * 4 * 512, "ema.start": 0.9999, "ema.end": 0.99999,
    "trunk.depth": 12, "masking.mask_ratio": 0.48, "num_masks": 8, "targets.top_k": 12,
    "targets.layer_norm": "instance", "targets.mean_norm": None, "head.decoder_width": 768, "head.num_layers": 5,
    "head.kernel_size": 9, "head.groups": 1,
    "head.input_dropout": 0.1, "head.residual": False, "head.projection_layers": 2, "head.projection_ratio": 2.0,
    "loss.reduction": "sum", "data.break_mode": "none", "data.block_size": 512,
}  # fmt: skip
V2_TEXT_LARGE = V2_TEXT | {
    "optimizer.lr": 1e-4, "batch": 2 * 512, "global_batch": 32 * 2 * 512, "trunk.width": 1024, "trunk.depth": 24,
    "trunk.num_heads": 16, "masking.mask_ratio": 0.5, "targets.top_k": 24, "targets.layer_norm": "layer",
    "targets.mean_norm": "instance",
}  # fmt: skip

IMAGENET = {  # [b] ViT-B
    "optimizer.lr": 4e-3, "optimizer.betas": [0.9, 0.999], "optimizer.weight_decay": 0.0, "end_lr": 1e-6, "batch": 128,
    "global_batch": 8 * 128, "layer_decay": 0.65, "encoder_changes.drop_path": 0.2, "mixing.mixup": 0.8,
    "mixing.cutmix": 1.0, "mixing.prob": 1.0, "mixing.switch_prob": 0.5, "label_smoothing": 0.1,
    "encoder_changes.attention_dropout": 0.0, "encoder_changes.output_norm": False, "data.random_erasing": 0.25,
}  # fmt: skip
IMAGENET_LARGE = IMAGENET | {
    "optimizer.lr": 5e-3, "optimizer.weight_decay": 0.05, "batch": 64, "global_batch": 16 * 64,
    "encoder_changes.drop_path": 0.25,
}  # fmt: skip
IMAGENET_V2 = {  # [m]
    "optimizer.lr": 1e-3, "optimizer.betas": [0.9, 0.95], "optimizer.weight_decay": 0.05, "start_lr": 1e-6,
    "end_lr": 1e-6, "batch": 32, "global_batch": 16 * 32, "layer_decay": 0.65, "encoder_changes.drop_path": 0.1,
    "mixing.mixup": 0.7, "mixing.cutmix": 1.0, "mixing.prob": 0.9, "mixing.switch_prob": 0.5, "label_smoothing": 0.1,
    "data.random_erasing": 0.25,
}  # fmt: skip
IMAGENET_V2_LARGE = IMAGENET_V2 | {
    "optimizer.lr": 5e-4, "clip": 4.0, "start_lr": 1e-7, "end_lr": 1e-7, "layer_decay": 0.75,
    "encoder_changes.drop_path": 0.2,
}  # fmt: skip
IMAGENET_V2_HUGE = IMAGENET_V2_LARGE | {"start_lr": 1e-20, "end_lr": 1e-20}
AUDIOSET = {  # [a]
    "optimizer.lr": 6e-5, "optimizer.betas": [0.9, 0.98], "optimizer.weight_decay": None, "batch": 2_560_000 / 16_000,
    "global_batch": 8 * 2_560_000 / 16_000, "masks.time_prob": 0.6, "masks.time_length": 5, "masks.channel_prob": 0.0,
    "encoder_changes.layer_drop": 0.1, "encoder_changes.dropout": 0.1, "encoder_changes.attention_dropout": 0.2,
    "encoder_changes.activation_dropout": 0.1,
}  # fmt: skip

EAT = V2_VISION | {  # [e]
    "optimizer.lr": 5e-4, "batch": 12, "global_batch": 4 * 12, "trunk.depth": 12, "front.prenet_depth": None,
    "masking.block_size": 5, "targets.top_k": 12, "cls_loss.weight": 1.0, "cls_loss.rows": 12 * 16,
    "data.frames": 1024,
}  # fmt: skip
EAT_LARGE = EAT | {
    "optimizer.lr": 4e-4, "trunk.width": 1024, "trunk.depth": 24, "trunk.num_heads": 16, "masking.mask_ratio": 0.75,
    "masking.adjust": 0.1, "targets.top_k": 24, "head.decoder_width": 1024, "head.num_layers": 3,
    "head.kernel_size": 5,
}  # fmt: skip
EAT_AUDIOSET = {  # [e] finetuning.yaml and scripts
    "optimizer.lr": 5e-5, "optimizer.betas": [0.9, 0.95], "optimizer.weight_decay": 0.05, "start_lr": 1e-6,
    "end_lr": 1e-6, "batch": 48, "layer_decay": 0.65, "layer_decay_input": False, "encoder_changes.drop_path": 0.1,
    "mixing.mixup": 0.8, "mixing.prob": 0.9, "spec_augment": 0.2, "pool": "cls", "data.roll": True,
    "data.frames": 1024, "schedule.warmup": 0.1,
}  # fmt: skip
EAT_ESC50 = EAT_AUDIOSET | {
    "mixing.mixup": None, "mixing.prob": None, "spec_augment": 0.4, "label_smoothing": 0.1, "data.frames": 512,
    "data.mean": -6.627, "data.std": 5.359,
}  # fmt: skip


def ctc(lr: float, time: float, channel: float, layer_drop: float = 0.1, **batch: float) -> dict[str, Any]:
    """[w]; the batch is ``max_tokens`` in seconds, the global one times devices and accumulation."""
    frames = 50 * batch.get("batch", 200)
    return {
        "optimizer.lr": lr, "optimizer.betas": [0.9, 0.98], "optimizer.weight_decay": None, "start_lr": lr / 100,
        "end_lr": lr * 0.05, "schedule.warmup": 0.1, "schedule.hold": 0.4, "schedule.decay": 0.5,
        "masks.time_prob": time, "masks.time_length": 10, "masks.channel_prob": channel, "masks.channel_length": 64,
        "masks.shared_by": frames,
        "encoder_changes.layer_drop": layer_drop, "encoder_changes.dropout": 0.0,
        "encoder_changes.attention_dropout": 0.0, "encoder_changes.activation_dropout": 0.1, "batch": 200,
        "global_batch": 2 * 200 * 4, **batch,
    }  # fmt: skip


OFFICIAL = {
    "vision.yaml": V1_VISION,
    "vision.yaml sizes/large.yaml": V1_VISION_LARGE,
    "vision.yaml sizes/large.yaml sizes/large_second_run.yaml": V1_VISION_LARGE
    | {"ema.start": 0.9999, "ema.end": 0.9999, "init_teacher": "student"},
    "speech.yaml": V1_SPEECH,
    "text.yaml": V1_TEXT,
    "v2/vision.yaml": V2_VISION,
    "v2/vision.yaml v2/sizes/large.yaml": V2_VISION_LARGE,
    "v2/vision.yaml v2/sizes/huge.yaml": V2_VISION_HUGE,
    "v2/speech.yaml": V2_SPEECH,
    "v2/speech.yaml v2/sizes/speech_large.yaml": V2_SPEECH_LARGE,
    "v2/emotion.yaml": EMOTION,
    "v2/text.yaml": V2_TEXT,
    "v2/text.yaml v2/sizes/text_large.yaml": V2_TEXT_LARGE,
    "v2/audio.yaml": EAT,
    "v2/audio.yaml v2/sizes/audio_large.yaml": EAT_LARGE,
    "finetune/audioset_v2.yaml": EAT_AUDIOSET,
    "finetune/esc50.yaml": EAT_ESC50,
    "finetune/imagenet.yaml": IMAGENET,
    "finetune/imagenet.yaml finetune/sizes/imagenet_large.yaml": IMAGENET_LARGE,
    "finetune/imagenet_v2.yaml": IMAGENET_V2,
    "finetune/imagenet_v2.yaml finetune/sizes/imagenet_v2_large.yaml": IMAGENET_V2_LARGE,
    "finetune/imagenet_v2.yaml finetune/sizes/imagenet_v2_huge.yaml": IMAGENET_V2_HUGE,
    "finetune/audioset.yaml": AUDIOSET,
    "finetune/librispeech_10m.yaml": ctc(5e-5, 0.65, 0.25),
    "finetune/librispeech_1h.yaml": ctc(5e-5, 0.65, 0.25),
    "finetune/librispeech_10h.yaml": ctc(5e-5, 0.65, 0.5, 0.05),
    "finetune/librispeech_100h.yaml": ctc(3e-5, 0.65, 0.5),
    "finetune/librispeech_960h.yaml": ctc(1e-4, 0.5, 0.1, global_batch=8 * 200),
    # vox_*.yaml
    "finetune/librispeech_10m.yaml finetune/sizes/librispeech_10m_large.yaml": ctc(1e-4, 0.65, 0.25, batch=80),
    "finetune/librispeech_1h.yaml finetune/sizes/librispeech_1h_large.yaml": ctc(3e-4, 0.75, 0.25, batch=80),
    "finetune/librispeech_10h.yaml finetune/sizes/librispeech_10h_large.yaml": ctc(1e-4, 0.75, 0.25, batch=80),
    "finetune/librispeech_100h.yaml finetune/sizes/librispeech_100h_large.yaml": ctc(3e-5, 0.5, 0.5, batch=80),
    "finetune/librispeech_960h.yaml finetune/sizes/librispeech_960h_large.yaml": ctc(
        3e-5, 0.5, 0.25, batch=80, global_batch=24 * 80
    ),
}


def setting(config: dict[str, Any], name: str) -> Any:
    """The value that a recipe means by a name: of the model, of the data if it begins so, or one of a few others."""
    args, data = config["model"]["init_args"], config["data"]["init_args"]
    optimizer, schedule = args["optimizer"]["init_args"], args["schedule"]["init_args"]
    stages = args["schedule"]["class_path"].endswith("TriStage")
    others = {
        "start_lr": optimizer["lr"] * schedule.get("start_factor", 0.01 * stages),
        "end_lr": optimizer["lr"] * schedule.get("end_factor", 0.01 * stages),
        "clip": config["trainer"].get("gradient_clip_val"),
        "precision": config["trainer"].get("precision"),
        "batch": data["batch_size"],
        "global_batch": data.get("global_batch_size"),
    }
    if name in others:
        return others[name]
    if name.startswith("data."):
        return data[name.removeprefix("data.")]
    if name == "optimizer.eps":
        return optimizer.get("eps", 1e-8)
    place: Any = args
    parts = name.split(".")
    if parts[0] in ("front", "trunk"):
        place = args["student"]
    for part in parts:
        place = (place or {}).get("init_args", place or {}).get(part)
    return place


@pytest.mark.parametrize("stack", OFFICIAL)
def test_values_are_the_official_ones(stack: str) -> None:
    config = load(stack)
    differing = {}
    for name, official in (ADAM | OFFICIAL[stack]).items():
        ours = setting(config, name)
        if ours != official and not (isinstance(official, float) and ours == pytest.approx(official, rel=1e-9)):
            differing[name] = (ours, official)
    assert not differing


def test_every_published_recipe_and_size_is_here() -> None:
    listed = {stack.split()[-1] for stack in OFFICIAL}
    ours = ("own/", "learn/", "demo/", "hardware/", "loggers/", "finetune/glue/")  # test_glue.py
    small = ("joint", "tiny", "small", "clips", "pictures", "finetune/speech", "finetune/text", "text_bert_masking")
    for path in SHIPPED.rglob("*.yaml"):
        name = path.relative_to(SHIPPED).as_posix()
        if not name.startswith(ours) and "as_published" not in name and not any(word in name for word in small):
            assert name in listed


def overlay_of(stack: str) -> str:
    """The overlay that docs/differences.md names for a recipe."""
    name = stack.split()[0]
    if name.startswith("finetune/imagenet"):
        return name.replace("finetune/", "finetune/as_published_")
    return "as_published_vision.yaml" if name == "vision.yaml" else "as_published.yaml"


GLUE = [f"finetune/glue/{path.name}" for path in (SHIPPED / "finetune/glue").glob("*.yaml")]


@pytest.mark.parametrize("stack", [*OFFICIAL, *GLUE, "text.yaml text_bert_masking.yaml"])
def test_the_overlay_changes_what_is_known_to_differ_and_nothing_else(stack: str) -> None:
    plain, published = load(stack), load(f"{stack} {overlay_of(stack)}")
    assert published["trainer"] == plain["trainer"] | {"precision": "16-mixed"}
    args = published["model"]["init_args"]
    beit = stack.startswith(("vision.yaml", "finetune/imagenet.yaml"))
    assert args.pop("weight_decay_on") == ("beit" if beit else "all")
    if stack.startswith("finetune/imagenet_v2"):
        assert args.pop("layer_decay_input") is False
    if stack.startswith("finetune/imagenet.yaml"):
        assert published["data"]["init_args"].pop("mean") == published["data"]["init_args"].pop("std") == [0.5] * 3
    assert (args, published["data"]) == (plain["model"]["init_args"], plain["data"])


def test_frozen_encoders_of_large_models() -> None:
    """[w] vox_*: freeze_finetune_updates is 10,000 in each."""
    for name in FROZEN:
        split = name.removeprefix("finetune/librispeech_").removesuffix(".yaml")
        config = load(f"{name} finetune/sizes/librispeech_{split}_large.yaml")
        share = config["model"]["init_args"]["freeze_encoder_steps"]
        assert round(share * config["trainer"]["max_steps"]) == 10_000
