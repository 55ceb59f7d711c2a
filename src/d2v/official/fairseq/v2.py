"""fairseq ``data2vec_multi`` checkpoints, data2vec 2.0 (``examples/data2vec/models/data2vec2.py``): what all modalities
have in common."""

import re
from dataclasses import dataclass, field
from typing import Any

from d2v.checkpoints.folder import any_begins, prefixed
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published
from d2v.official.fairseq import cfg
from d2v.official.imported import Imported, Recipe, method_recipe
from d2v.official.names import (
    SHAREABLE,
    Rule,
    count,
    expect_shape,
    given,
    mlp_ratio,
    model_state,
    rename,
    without_prefix,
)

LICENCE = "CC-BY-NC 4.0 if these are the published weights"

ENCODER_ROWS = (
    (r"^extra_tokens$", "front.cls_token"),
    (r"^context_encoder\.norm\.", "front.input_norm."),
    (r"^context_encoder\.blocks\.", "front.prenet."),
    (r"^blocks\.", "trunk.blocks."),
)
OFF = {
    "inverse_mask": False, "add_masks": False, "remove_masks": False, "keep_masked_pct": 0, "mask_dropout": 0,
    "mask_channel_prob": 0, "mask_prob_min": None, "encoder_zero_mask": True, "local_grad_mult": 1,
}  # fmt: skip
OFF_IN_MODEL = {"dropout_input": 0, "cls_loss": 0, "recon_loss": 0}
"""Settings that ask for what d2v has not, with the value that asks for nothing: of a modality, of the model."""
_DECODER = r"decoder\.(?:blocks\.(?P<layer>\d+)\.0|proj(?P<proj>\.\d+)?)\.(?P<part>weight|bias)"


@dataclass
class V2Checkpoint(Imported):
    """A checkpoint of one modality, on its way into our terms."""

    section: dict[str, Any] = field(default_factory=dict)
    """Section ``model.modalities.MODALITY`` of its settings."""
    ema: dict[str, Any] = field(default_factory=dict)
    """The teacher's tensors; empty if there is none."""
    lent: tuple[str, ...] = ()
    """Parts that a teacher of blocks only (``ema_encoder_only``) borrows from the student."""


def sort_v2(
    content: dict[str, Any], modality: str, rule: Rule, refused: tuple[str, ...], lent: tuple[str, ...] = ()
) -> V2Checkpoint:
    """Sort a checkpoint and rename what it holds of student, teacher and decoder.

    Args:
        content: The file.
        modality: As fairseq calls it: "IMAGE", "AUDIO", "TEXT".
        rule: For the tensors of an encoder of this modality.
        refused: Settings of the modality that must be off, because we have no such encoder.
        lent: Parts that a teacher of blocks only borrows; of the others it starts with a copy.

    Raises:
        UserError: It has no settings, or a setting of ``refused`` is on.
    """
    settings = cfg.model_settings(content)
    if not settings:
        raise UserError(
            "the checkpoint has no cfg.model section: the number of heads and the targets cannot be known; of a FunASR "
            "model config.yaml must lie beside it"
        )
    section = given(given(settings.get("modalities")).get(modality.lower()))
    # fairseq's block loses the residual with layer_norm_first.
    if settings.get("layer_norm_first"):
        raise UserError("cfg.model.layer_norm_first is on: no published model of 2.0 is such; unsupported")
    for key in refused:
        if section.get(key):
            where = f"cfg.model.modalities.{modality.lower()}.{key}"
            raise UserError(f"{where} is on: no published model of 2.0 is such; unsupported")

    state = model_state(content)
    prefix = f"modality_encoders.{modality}."
    ema = without_prefix(given(state.pop("_ema", None)), prefix)
    found = V2Checkpoint(without_prefix(state, prefix), settings, section=section, ema=ema, lent=lent)

    def student_name(key: str) -> str | None:
        decoder = re.fullmatch(_DECODER, key)
        if decoder:
            layer = f"proj{decoder['proj'] or ''}"
            if decoder["layer"]:
                layer = f"layers.{decoder['layer']}"
            return f"task.head.{layer}.{decoder['part']}"
        name = rule(key)
        return name and f"student.{name}"

    found.rename(student_name)
    _add_teacher(found, rule)
    for name, value in found.weights.items():
        if name.endswith((".cls_token", ".positions.table")) and value.ndim != 2:
            found.weights[name] = expect_shape(value, 3, name)[0]  # [1, n, D] -> [n, D]
    return found


def _add_teacher(checkpoint: V2Checkpoint, rule: Rule) -> None:
    """Add the teacher's tensors. Where only its blocks were averaged, the student's stand for the others."""
    blocks_only = any(re.match(r"\d+\.", key) for key in checkpoint.ema)  # ema_encoder_only
    ema = checkpoint.ema
    if blocks_only:
        ema = {f"blocks.{key}": value for key, value in ema.items()}
    teacher, unknown = rename(ema, rule, "teacher.encoder.")
    weights = checkpoint.weights
    weights.update(teacher)
    checkpoint.leave_out(unknown, "_ema.")
    if blocks_only:
        checkpoint.notes.append(
            "only the blocks of the teacher were averaged: what stands before them is the student's"
        )
        for name, value in prefixed(weights, "student.front.").items():
            if name.split(".")[2] not in checkpoint.lent:
                weights[name.replace("student.", "teacher.encoder.", 1)] = value


def shared_parts(checkpoint: V2Checkpoint) -> list[str]:
    """``shared_with_teacher``: what the teacher has not averaged; without a teacher, what the settings say."""
    lendable = [part for part in checkpoint.lent if _has(checkpoint, f"student.front.{part}.")]
    if not checkpoint.ema:
        if lendable and checkpoint.settings.get("ema_encoder_only", True):
            return lendable
        return [] if checkpoint.section.get("ema_local_encoder") else ["feature_extractor"]
    shared = []
    for part in SHAREABLE:
        if _has(checkpoint, f"student.front.{part}.") and not _has(checkpoint, f"teacher.encoder.front.{part}."):
            shared.append(part)
    return shared


def _has(checkpoint: V2Checkpoint, prefix: str) -> bool:
    return any_begins(checkpoint.weights, prefix)


def trunk(checkpoint: V2Checkpoint) -> dict[str, Any]:
    """Arguments of the trunk that the settings tell and the tensors do not.

    Raises:
        UserError: With the setting for norms they would give no numbers.
    """
    settings = checkpoint.settings
    eps = float(settings.get("norm_eps", 1e-6))
    if not 0 < eps < 1:
        raise UserError(f"cfg.model.norm_eps is {eps}, where a small number above 0 belongs")
    return {
        "num_heads": int(settings.get("num_heads", 12)),
        "eps": eps,
        "dropout": settings.get("encoder_dropout", 0.1),
        "attention_dropout": settings.get("attention_dropout", 0.1),
        "drop_path": settings.get("end_drop_path_rate", 0.0),
    }


def cls_loss(checkpoint: V2Checkpoint, rows: int) -> Recipe | None:
    """Recipe of what CLS predicts, if there is one and it predicts anything.

    Args:
        checkpoint: Of :func:`sort_v2`.
        rows: Of the published micro-batch, which fairseq adds up.
    """
    settings = checkpoint.settings
    weight = float(settings.get("cls_loss", 0))
    if not weight or not _has(checkpoint, "student.front.cls_token"):
        return None
    tokens = "mean" if settings.get("cls_type") == "chunk" else "last"
    return node("d2v.model.losses.ClsLoss", weight=weight, rows=rows, tokens=tokens)


def finish_v2(
    found: V2Checkpoint, modality: str, fine_tuned: str, licence: str, student: Recipe, masking: Recipe, head: Recipe,
    cls_loss: Recipe | None = None, recipe: str = "",
) -> Imported:  # fmt: skip
    """The recipe of the method from its parts and the settings, and notes about those that are not the published ones.

    Args:
        found: Of :func:`sort_v2`.
        modality: As we call it.
        fine_tuned: What the name of the layout ends with.
        licence: Of the weights.
        student, masking, head, cls_loss: Recipes.
        recipe: The published one, if it is not data2vec's own.
    """
    settings, notes, trunk = found.settings, found.notes, student["trunk"]
    name = {"vision": "image", "speech": "audio"}.get(modality, modality)  # as fairseq calls it
    notes += cfg.contradictions(settings, {"depth": trunk["depth"], "embed_dim": trunk["width"]})
    known = published.flat(settings, name, found.section)
    notes += published.differences(known, recipe or f"v2_{modality}", trunk["width"])
    method = method_recipe(
        student,
        masking,
        cfg.targets(settings, trunk["depth"], end_of_block=False, notes=notes),
        head,
        cfg.regression_loss(settings, notes),
        shared_parts(found),
        cls_loss,
        int(settings.get("clone_batch", 1)),
    )
    return found.finish(f"fairseq data2vec 2.0 {modality}{fine_tuned}", licence, method, cfg.ema_schedule(settings))


def decoder(checkpoint: V2Checkpoint, class_path: str, published: dict[str, Any]) -> Recipe:
    """Recipe of the decoder; its tensors are taken out of the weights if it is none of ours.

    Args:
        checkpoint: Changed in place.
        class_path: Of the decoder for this modality.
        published: Arguments of the published Base model's, for a checkpoint that has none.
    """
    settings, weights, notes = given(checkpoint.section.get("decoder")), checkpoint.weights, checkpoint.notes
    noise = checkpoint.section.get("mask_noise_std", 0.01)
    first, hidden = weights.get("task.head.layers.0.weight"), weights.get("task.head.proj.0.weight")
    proj = weights.get("task.head.proj.weight" if hidden is None else "task.head.proj.2.weight")
    dims = 4 if class_path.endswith("2d") else 3
    if (
        (first is not None and first.ndim == dims and first.shape[-1] % 2)
        and (proj is not None and proj.ndim == 2)
        and "task.head.proj.4.weight" not in weights
    ):
        for key in ("add_positions_masked", "add_positions_all"):
            if settings.get(key):
                notes.append(f"decoder.{key} is {settings[key]}: d2v's decoder has no such step")
        decoder_width = len(first)
        arguments = {}
        if hidden is not None:
            arguments = {"projection_layers": 2, "projection_ratio": mlp_ratio(len(hidden), decoder_width)}
        return node(
            class_path,
            decoder_width=decoder_width,
            num_layers=count(weights, r"task\.head\.layers\.(\d+)\."),
            kernel_size=first.shape[-1],
            groups=len(proj) // first.shape[1],
            mask_noise=noise,
            input_dropout=settings.get("input_dropout", 0.1),
            residual=settings.get("decoder_residual", True),
            **arguments,
        )
    for name in prefixed(weights, "task.head."):
        checkpoint.left_out.append(name.removeprefix("task."))
        del weights[name]
    notes.append("there is no decoder that d2v has: a new one would be trained, as large as the published Base")
    return node(class_path, mask_noise=noise, **published)
