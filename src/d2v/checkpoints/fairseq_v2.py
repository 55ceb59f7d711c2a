"""fairseq ``data2vec_multi`` checkpoints: data2vec 2.0 (``examples/data2vec/models/data2vec2.py``)."""

import re
from typing import Any

from torch import Tensor

from d2v.checkpoints.layout import Imported, rename
from d2v.checkpoints.recipe import node
from d2v.errors import UserError

_BLOCK_PARTS = (
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)
_ENCODER_PARTS = (
    (r"^local_encoder\.proj\.", "feature_extractor.proj."),
    (r"^fixed_positional_encoder\.positions$", "positions.table"),
    (r"^extra_tokens$", "cls_token"),
    (r"^context_encoder\.norm\.", "transformer.input_norm."),
    (r"^context_encoder\.blocks\.", "transformer.prenet."),
    (r"^blocks\.", "transformer.blocks."),
)


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    state = content.get("model")
    return isinstance(state, dict) and any(key.startswith("modality_encoders.IMAGE.") for key in state)


def convert(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 image checkpoint.

    Raises:
        UserError: It holds a variant that no published configuration uses.
    """
    state: dict[str, Any] = dict(content["model"])
    ema: dict[str, Tensor] = state.pop("_ema", None) or {}
    cfg = (content.get("cfg") or {}).get("model")
    if not cfg:
        raise UserError("the checkpoint has no cfg.model section: the number of heads and the targets cannot be known")
    image = cfg["modalities"]["image"]
    if cfg["layer_norm_first"]:
        raise UserError("cfg.model.layer_norm_first is true: fairseq's pre-norm block of 2.0 loses the residual; unsupported")

    weights, left_out = rename(state, lambda key: _our_name(key, "student."))
    teacher, left_out_ema = rename(ema, lambda key: _our_name(key, "teacher.encoder."))
    weights.update(teacher)
    for name, value in weights.items():
        if name.endswith((".cls_token", ".positions.table")):
            weights[name] = value[0]  # [1, n, D] -> [n, D]
    patches = weights["student.feature_extractor.proj.weight"]  # [D, 3, p, p]
    decoder = image["decoder"]
    patch_size = patches.shape[-1]
    notes = _contradictions(cfg, image, weights)
    method = {
        "student": node(
            "d2v.modalities.vision.encoder.VisionEncoder",
            image_size=_side(len(weights["student.positions.table"])) * patch_size,
            patch_size=patch_size,
            in_channels=patches.shape[1],
            width=patches.shape[0],
            depth=_count(weights, r"student\.transformer\.blocks\.(\d+)\."),
            prenet_depth=_count(weights, r"student\.transformer\.prenet\.(\d+)\."),
            num_heads=cfg["num_heads"],
            mlp_ratio=cfg["mlp_ratio"],
            eps=cfg["norm_eps"],
            num_cls=image["num_extra_tokens"],
            dropout=cfg["encoder_dropout"],
            attention_dropout=cfg["attention_dropout"],
            drop_path=cfg["end_drop_path_rate"],
        ),
        "masking": node(
            "d2v.model.masking.InverseBlockMasking",
            mask_ratio=image["mask_prob"],
            block_size=image["mask_length"],
            adjust=image["mask_prob_adjust"],
        ),
        "targets": node(
            "d2v.model.targets.TopKTargets",
            top_k=cfg["average_top_k_layers"],
            source="end" if cfg["end_of_block_targets"] else "ffn",
            layer_norm=_norm(cfg, "target_layer"),
            mean_norm=_norm(cfg, "targets"),
        ),
        "head": node(
            "d2v.model.heads.ConvDecoder2d",
            decoder_width=decoder["decoder_dim"],
            num_layers=decoder["decoder_layers"],
            kernel_size=decoder["decoder_kernel"],
            groups=decoder["decoder_groups"],
            mask_noise=image["mask_noise_std"],
        ),
        "loss": regression_loss(cfg),
        "cls_loss": node("d2v.model.losses.ClsLoss", weight=cfg["cls_loss"]) if cfg["cls_loss"] else None,
        "num_masks": cfg["clone_batch"],
        "shared_with_teacher": [] if image["ema_local_encoder"] else ["feature_extractor"],
    }
    ema_decay = {"start": cfg["ema_decay"], "end": cfg["ema_end_decay"], "anneal_steps": cfg["ema_anneal_end_step"]}
    return Imported(
        layout="fairseq data2vec 2.0 image",
        licence="CC-BY-NC 4.0 if these are the published weights",
        method=method,
        ema=ema_decay,
        weights=weights,
        left_out=left_out + [f"_ema.{key}" for key in left_out_ema],
        notes=notes,
    )


def regression_loss(cfg: dict[str, Any]) -> dict[str, Any]:
    """fairseq's loss settings: beta 0 is the squared distance, scale null is 1/sqrt(D)."""
    scale = cfg["loss_scale"]
    if scale not in (None, 1, 1.0):
        raise UserError(f"cfg.model.loss_scale is {scale}: only null (1/sqrt(D)) and 1 are used by published models")
    reduction = "scaled_sum" if scale is None else "sum"
    if cfg["loss_beta"]:
        return node("d2v.model.losses.RegressionLoss", kind="smooth_l1", beta=cfg["loss_beta"], reduction=reduction)
    return node("d2v.model.losses.RegressionLoss", kind="mse", reduction=reduction)


def _our_name(key: str, prefix: str) -> str | None:
    key = key.removeprefix("modality_encoders.IMAGE.")
    decoder = re.fullmatch(r"decoder\.(?:blocks\.(\d+)\.0|proj)\.(weight|bias)", key)
    if decoder:
        return f"head.layers.{decoder[1]}.{decoder[2]}" if decoder[1] else f"head.proj.{decoder[2]}"
    for pattern, replacement in _ENCODER_PARTS:
        if re.search(pattern, key):
            return prefix + rename_block(re.sub(pattern, replacement, key))
    return None


def rename_block(key: str) -> str:
    """Names of the parts of a timm-style block in ours."""
    for pattern, replacement in _BLOCK_PARTS:
        key = re.sub(pattern, replacement, key)
    return key


def _norm(cfg: dict[str, Any], where: str) -> str | None:
    if cfg.get(f"batch_norm_{where}"):
        raise UserError(f"cfg.model.batch_norm_{where} is true: no published model uses it; unsupported")
    for norm in ("instance", "layer"):
        if cfg.get(f"{norm}_norm_{where}"):
            return norm
    return None


def _count(names: Any, pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _side(tokens: int) -> int:
    side = round(tokens**0.5)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are no square: the grid of patches cannot be known")
    return side


def _contradictions(cfg: dict[str, Any], image: dict[str, Any], weights: dict[str, Tensor]) -> list[str]:
    """Where the checkpoint's own settings and its tensors disagree; the tensors win."""
    patches = weights["student.feature_extractor.proj.weight"]
    found = {
        "depth": (cfg["depth"], _count(weights, r"student\.transformer\.blocks\.(\d+)\.")),
        "embed_dim": (cfg["embed_dim"], patches.shape[0]),
        "modalities.image.prenet_depth": (image["prenet_depth"], _count(weights, r"student\.transformer\.prenet\.(\d+)\.")),
        "modalities.image.patch_size": (image["patch_size"], patches.shape[-1]),
    }
    return [f"cfg.model.{key} says {said}, the weights say {is_}: taken from the weights" for key, (said, is_) in found.items() if said != is_]
