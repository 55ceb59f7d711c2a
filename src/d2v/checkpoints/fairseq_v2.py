"""fairseq ``data2vec_multi`` checkpoints: data2vec 2.0 (``examples/data2vec/models/data2vec2.py``)."""

import re
from typing import Any

from d2v.checkpoints.fairseq_settings import model_settings, regression_loss, targets
from d2v.checkpoints.layout import (
    Imported,
    StateDict,
    count,
    expect_shape,
    first_match,
    given,
    image_size,
    model_state,
    rename,
    sizes,
    square,
)
from d2v.checkpoints.recipe import node
from d2v.errors import UserError

_ENCODER_PARTS = (
    (r"^local_encoder\.proj\.", "feature_extractor.proj."),
    (r"^fixed_positional_encoder\.positions$", "positions.table"),
    (r"^extra_tokens$", "cls_token"),
    (r"^context_encoder\.norm\.", "transformer.input_norm."),
    (r"^context_encoder\.blocks\.", "transformer.prenet."),
    (r"^blocks\.", "transformer.blocks."),
)
_BEFORE_BLOCKS = r"student\.(?!transformer\.blocks\.)"


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    return any(key.startswith("modality_encoders.IMAGE.") for key in model_state(content))


def convert(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 image checkpoint, pretrained or fine-tuned (whose classifier is left out).

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    settings = model_settings(content)
    if not settings:
        raise UserError("the checkpoint has no cfg.model section: the number of heads and the targets cannot be known")
    modalities = settings.get("modalities")
    image = given(modalities.get("image") if isinstance(modalities, dict) else None)
    for name, section in (("layer_norm_first", settings), ("modalities.image.use_alibi_encoder", image)):
        if section.get(name.rpartition(".")[2]):
            raise UserError(f"cfg.model.{name} is true: no published model of 2.0 vision is such; unsupported")

    notes: list[str] = []
    state = model_state(content)
    ema = state.pop("_ema", None) or {}
    weights, left_out = rename(state, _student_name)
    left_out += _add_teacher(weights, ema, notes)
    for name, value in weights.items():
        if name.endswith((".cls_token", ".positions.table")):
            weights[name] = expect_shape(value, 3, name)[0]  # [1, n, D] -> [n, D]
    head, left_out_head = _head(weights, image, notes)
    encoder = {
        **sizes(weights),
        "prenet_depth": count(weights, r"student\.transformer\.prenet\.(\d+)\."),
        "num_cls": len(weights.get("student.cls_token", ())),
    }
    table = weights.get("student.positions.table")
    patch_size = encoder["patch_size"]
    side = int(image.get("input_size", 224)) // patch_size
    cls_weight = float(settings.get("cls_loss", 0))
    if not image.get("inverse_mask"):
        notes.append("modalities.image.inverse_mask is not set: d2v masks by inverse blocks nevertheless")
    shares = (
        not image.get("ema_local_encoder")
        if not ema
        else "teacher.encoder.feature_extractor.proj.weight" not in weights
    )
    method = {
        "student": node(
            "d2v.modalities.vision.encoder.VisionEncoder",
            image_size=image_size((side, side) if table is None else square(len(table)), patch_size),
            num_heads=int(settings.get("num_heads", 12)),
            positions=None if table is None else "sincos",
            eps=settings.get("norm_eps", 1e-6),
            dropout=settings.get("encoder_dropout", 0.1),
            attention_dropout=settings.get("attention_dropout", 0.1),
            drop_path=settings.get("end_drop_path_rate", 0.0),
            **encoder,
        ),
        "masking": node(
            "d2v.model.masking.InverseBlockMasking",
            mask_ratio=image.get("mask_prob", 0.7),
            block_size=image.get("mask_length", 5),
            adjust=image.get("mask_prob_adjust", 0),
        ),
        "targets": targets(settings, encoder["depth"], end_of_block=False, notes=notes),
        "head": head,
        "loss": regression_loss(settings, notes),
        "cls_loss": node("d2v.model.losses.ClsLoss", weight=cls_weight) if cls_weight and encoder["num_cls"] else None,
        "num_masks": int(settings.get("clone_batch", 1)),
        "shared_with_teacher": ["feature_extractor"] if shares else [],
    }
    said = {
        "depth": (settings.get("depth", 8), encoder["depth"]),
        "embed_dim": (settings.get("embed_dim", 768), encoder["width"]),
        "modalities.image.prenet_depth": (image.get("prenet_depth", 4), encoder["prenet_depth"]),
        "modalities.image.patch_size": (image.get("patch_size", 16), patch_size),
    }
    notes += [
        f"cfg.model.{key} says {value}, the weights say {real}: taken from the weights"
        for key, (value, real) in said.items()
        if value != real
    ]
    return Imported(
        layout="fairseq data2vec 2.0 image",
        licence="CC-BY-NC 4.0 if these are the published weights",
        method=method,
        ema={
            "start": settings.get("ema_decay", 0.999),
            "end": settings.get("ema_end_decay", 0.9999),
            "anneal_steps": settings.get("ema_anneal_end_step", 0),
        },
        weights=weights,
        left_out=left_out + left_out_head,
        notes=notes,
    )


def _student_name(key: str) -> str | None:
    key = key.removeprefix("modality_encoders.IMAGE.")
    decoder = re.fullmatch(r"decoder\.(?:blocks\.(\d+)\.0|proj)\.(weight|bias)", key)
    if decoder:
        return f"head.layers.{decoder[1]}.{decoder[2]}" if decoder[1] else f"head.proj.{decoder[2]}"
    name = first_match(key, _ENCODER_PARTS)
    return name and f"student.{name}"


def _add_teacher(weights: StateDict, ema: dict[str, Any], notes: list[str]) -> list[str]:
    """Add the teacher's tensors; returns the names of those that were left out."""
    blocks_only = any(re.match(r"\d+\.", key) for key in ema)  # ema_encoder_only
    names = {f"blocks.{key}" if blocks_only else key: value for key, value in ema.items()}
    teacher, unknown = rename(
        names, lambda key: first_match(key.removeprefix("modality_encoders.IMAGE."), _ENCODER_PARTS), "teacher.encoder."
    )
    weights.update(teacher)
    if blocks_only:
        notes.append("only the blocks of the teacher were averaged: what stands before them is the student's")
        for name in [name for name in weights if re.match(_BEFORE_BLOCKS, name)]:
            weights[name.replace("student.", "teacher.encoder.", 1)] = weights[name]
    return [f"_ema.{key}" for key in unknown]


def _head(weights: StateDict, image: dict[str, Any], notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Recipe of the decoder, and the tensors that are taken out of ``weights`` because it is none of ours."""
    decoder = given(image.get("decoder"))
    noise = image.get("mask_noise_std", 0.01)
    first, proj = weights.get("head.layers.0.weight"), weights.get("head.proj.weight")
    if (
        (first is not None and first.ndim == 4 and first.shape[-1] % 2)
        and (proj is not None and proj.ndim == 2)
        and decoder.get("decoder_residual", True)
    ):
        steps = [key for key in ("add_positions_masked", "add_positions_all", "input_dropout") if decoder.get(key)]
        notes.extend(f"decoder.{key} is {decoder[key]}: d2v's decoder has no such step" for key in steps)
        return (
            node(
                "d2v.model.heads.ConvDecoder2d",
                decoder_width=proj.shape[1],
                num_layers=count(weights, r"head\.layers\.(\d+)\."),
                kernel_size=first.shape[-1],
                groups=proj.shape[0] // first.shape[1],
                mask_noise=noise,
            ),
            [],
        )
    out = [name for name in weights if name.startswith("head.")]
    for name in out:
        del weights[name]
    notes.append("there is no decoder that d2v has: a new one would be trained, as large as the published Base")
    return node("d2v.model.heads.ConvDecoder2d", mask_noise=noise), out
