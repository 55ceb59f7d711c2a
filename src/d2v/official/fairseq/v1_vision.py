"""Checkpoints of fairseq's port of data2vec 1.0 vision (``examples/data2vec/models/data2vec_vision.py``)."""

from typing import Any

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.layout import Imported, model_state, tensor
from d2v.checkpoints.recipe import node
from d2v.official.fairseq.settings import ema_schedule, model_settings, regression_loss, targets
from d2v.official.vision import example, shown, sizes
from d2v.official.vision_v1 import (
    add_unused,
    block_masking,
    encoder_weights,
    find_grid,
    num_heads,
    student,
)


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    return "patch_embed.conv.weight" in model_state(content)


def convert(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint, pretrained or fine-tuned; its projection never learned and is left out.

    Missing settings are fairseq's defaults.

    Raises:
        UserError: The checkpoint is not whole.
    """
    notes: list[str] = []
    settings = model_settings(content)
    if not settings:
        notes.append("the checkpoint has no cfg.model section: fairseq's defaults are taken")
    state = _without_encoder(model_state(content))
    ema = _without_encoder(state.pop("_ema", None) or {})
    weights, left_out = encoder_weights(state, "student.")
    teacher, left_out_ema = encoder_weights(ema, "teacher.encoder.")
    encoder = sizes(weights)
    if add_unused(weights, "student.", "masked_input.mask_token", 0.0):
        notes.append("the file holds no mask embedding, as fine-tuned models have none: it is zero")
    tensor(weights, "student.transformer.output_norm.weight", dims=1)  # there with a classifier too
    parts = {"norm": "fc_norm"} if "fc_norm.weight" in state else {}
    classifier = take_head(
        state, {**parts, "proj": "head"}, width=encoder["width"], pool="mean", left_out=left_out, notes=notes
    )
    if classifier is not None:
        notes.append("fairseq's classifier leaves the first patch out of the mean as well as CLS; d2v's does not")

    transformer_only = settings.get("ema_transformer_only", True)
    if teacher:
        transformer_only = "teacher.encoder.feature_extractor.proj.weight" not in teacher
        if transformer_only:
            notes.append(
                "only the Transformer was averaged: the teacher's CLS and mask embedding start as the student's"
            )
            for name in ("cls_token", "masked_input.mask_token"):
                teacher.setdefault(f"teacher.encoder.{name}", weights[f"student.{name}"])
        weights.update(teacher)
    grid = find_grid(weights, None, encoder["patch_size"])
    said = {key: settings.get(key, encoder[ours]) for key, ours in (("depth", "depth"), ("embed_dim", "width"))}
    if said != {"depth": encoder["depth"], "embed_dim": encoder["width"]}:
        notes.append(
            f"cfg.model says {said}, the weights {encoder['depth']} blocks of {encoder['width']}: taken from them"
        )
    recipe = student(
        weights,
        grid,
        settings["num_heads"] if "num_heads" in settings else num_heads(weights, notes),
        output_eps=1e-5,  # fairseq builds the last norm with torch's own eps, and all others with 1e-6
        layer_scale=settings.get("layer_scale_init_value", 1e-4),
        attention_dropout=settings.get("attention_dropout", 0.0),
        drop_path=settings.get("drop_path", 0.1),
    )
    return Imported(
        layout="fairseq data2vec 1.0 vision" + (", fine-tuned" if "head.weight" in state else ""),
        licence="MIT (fairseq)",
        method={
            "student": recipe,
            "masking": block_masking({"max_mask_patches_per_block": 196, **settings}, grid, notes),
            "targets": targets(settings, encoder["depth"], end_of_block=True, notes=notes),
            "head": node("d2v.model.heads.IdentityHead"),
            "loss": regression_loss(settings, notes),
            "cls_loss": None,
            "num_masks": 1,
            "shared_with_teacher": ["feature_extractor"] if transformer_only else [],
        },
        ema=ema_schedule(settings),
        weights=weights,
        example=example(encoder["width"]),
        sizes=shown(recipe),
        classifier=classifier,
        left_out=left_out + [f"_ema.{key}" for key in left_out_ema],
        notes=notes,
    )


def _without_encoder(state: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("encoder."): value for key, value in state.items()}
