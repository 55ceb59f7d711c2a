"""Checkpoints of fairseq's port of data2vec 1.0 vision (``examples/data2vec/models/data2vec_vision.py``)."""

from typing import Any

from d2v.checkpoints.recipe import node
from d2v.official import vision_tensors as vision
from d2v.official.fairseq import cfg
from d2v.official.foreign_heads import take_classifier
from d2v.official.imported import Imported, method_recipe
from d2v.official.names import given, model_state, tensor, trunk_sizes, without_prefix


def read_v1_vision(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint, pretrained or fine-tuned; its projection never learned and is left out.

    Missing settings are fairseq's defaults.

    Raises:
        UserError: The checkpoint is not whole.
    """
    found = Imported(without_prefix(model_state(content), "encoder."), cfg.model_settings(content))
    settings, weights, notes = found.settings, found.weights, found.notes
    if not settings:
        notes.append("the checkpoint has no cfg.model section: fairseq's defaults are taken")
    teacher, left_out_ema = vision.v1_weights(
        without_prefix(given(found.state.pop("_ema", None)), "encoder."), "teacher.encoder."
    )
    student, found.left_out = vision.v1_weights(found.state, "student.")
    weights |= student
    sizes = trunk_sizes(weights)
    vision.add_unused(found)
    tensor(weights, "student.trunk.output_norm.weight", dims=1)  # there with a classifier too
    layers = {"proj": "head"}
    if "fc_norm.weight" in found.state:
        layers["norm"] = "fc_norm"
    take_classifier(found, layers, pool="mean")
    if found.head is not None:
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
        weights |= teacher
    found.leave_out(left_out_ema, "_ema.")
    grid = vision.find_grid(weights, None, vision.patch_sizes(weights)["patch_size"])
    notes += cfg.contradictions(settings, {"depth": sizes["depth"], "embed_dim": sizes["width"]})
    heads = settings.get("num_heads")
    trunk = {
        "output_eps": 1e-5,  # fairseq builds the last norm with torch's own eps, and all others with 1e-6
        "layer_scale": settings.get("layer_scale_init_value", 1e-4),
        "attention_dropout": settings.get("attention_dropout", 0.0),
        "drop_path": settings.get("drop_path", 0.1),
    }
    method = method_recipe(
        vision.v1_student(weights, grid, heads or vision.v1_num_heads(weights, notes), **trunk),
        vision.block_masking({"max_mask_patches_per_block": 196, **settings}, grid, notes),
        cfg.targets(settings, sizes["depth"], end_of_block=True, notes=notes),
        node("d2v.model.heads.IdentityHead"),
        cfg.regression_loss(settings, notes),
        ["feature_extractor"] if transformer_only else [],
    )
    layout = "fairseq data2vec 1.0 vision" + cfg.fine_tuned("head.weight" in found.state)
    return found.finish(layout, "MIT (fairseq)", method, cfg.ema_schedule(settings))
