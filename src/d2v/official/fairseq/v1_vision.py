"""Checkpoints of fairseq's port of data2vec 1.0 vision (``examples/data2vec/models/data2vec_vision.py``)."""

from typing import Any

from d2v.checkpoints.recipe import node
from d2v.official.fairseq.cfg import contradictions, ema_schedule, model_settings, regression_loss, targets
from d2v.official.foreign_heads import take_classifier
from d2v.official.imported import Imported, method_recipe
from d2v.official.names import model_state, tensor, trunk_sizes
from d2v.official.vision_tensors import (
    add_unused,
    block_masking,
    find_grid,
    patch_sizes,
    v1_num_heads,
    v1_student,
    v1_weights,
)


def read_v1_vision(content: dict[str, Any]) -> Imported:
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
    weights, left_out = v1_weights(state, "student.")
    teacher, left_out_ema = v1_weights(ema, "teacher.encoder.")
    sizes = trunk_sizes(weights)
    if add_unused(weights, "student."):
        notes.append("the file holds no mask embedding, as fine-tuned models have none: it is zero")
    tensor(weights, "student.trunk.output_norm.weight", dims=1)  # there with a classifier too
    layers = {"proj": "head"}
    if "fc_norm.weight" in state:
        layers["norm"] = "fc_norm"
    classifier = take_classifier(state, layers, width=sizes["width"], pool="mean", left_out=left_out, notes=notes)
    if classifier is not None:
        notes.append("fairseq's classifier leaves the first patch out of the mean as well as CLS; d2v's does not")

    transformer_only = settings.get("ema_transformer_only", True)
    if teacher:
        transformer_only = "teacher.encoder.front.feature_extractor.proj.weight" not in teacher
        if transformer_only:
            notes.append(
                "only the Transformer was averaged: the teacher's CLS and mask embedding start as the student's"
            )
            for name in ("cls_token", "masked_input.mask_token"):
                teacher.setdefault(f"teacher.encoder.front.{name}", weights[f"student.front.{name}"])
        weights.update(teacher)
    grid = find_grid(weights, None, patch_sizes(weights)["patch_size"])
    said = {"depth": (settings.get("depth", sizes["depth"]), sizes["depth"])}
    said["embed_dim"] = (settings.get("embed_dim", sizes["width"]), sizes["width"])
    notes += contradictions(said)
    student = v1_student(
        weights,
        grid,
        settings["num_heads"] if "num_heads" in settings else v1_num_heads(weights, notes),
        output_eps=1e-5,  # fairseq builds the last norm with torch's own eps, and all others with 1e-6
        layer_scale=settings.get("layer_scale_init_value", 1e-4),
        attention_dropout=settings.get("attention_dropout", 0.0),
        drop_path=settings.get("drop_path", 0.1),
    )
    return Imported(
        layout="fairseq data2vec 1.0 vision" + (", fine-tuned" if "head.weight" in state else ""),
        licence="MIT (fairseq)",
        method=method_recipe(
            student,
            block_masking({"max_mask_patches_per_block": 196, **settings}, grid, notes),
            targets(settings, sizes["depth"], end_of_block=True, notes=notes),
            node("d2v.model.heads.IdentityHead"),
            regression_loss(settings, notes),
            ["feature_extractor"] if transformer_only else [],
        ),
        ema=ema_schedule(settings),
        weights=weights,
        head=classifier,
        left_out=left_out + [f"_ema.{key}" for key in left_out_ema],
        notes=notes,
    )


def _without_encoder(state: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("encoder."): value for key, value in state.items()}
