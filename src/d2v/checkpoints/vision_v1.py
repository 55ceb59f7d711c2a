"""data2vec 1.0 vision: checkpoints of data2vec_vision (BEiT's code, the published ones) and of fairseq's port."""

import math
import re
from typing import Any

import torch
from torch import Tensor

from d2v.checkpoints.fairseq_v2 import regression_loss, rename_block
from d2v.checkpoints.layout import Imported, StateDict, rename
from d2v.checkpoints.recipe import node
from d2v.errors import UserError

_ENCODER_PARTS = (
    (r"^patch_embed\.(?:proj|conv)\.", "feature_extractor.proj."),
    (r"^(?:cls_token|cls_emb)$", "cls_token"),
    (r"^(?:mask_token|mask_emb)$", "masked_input.mask_token"),
    (r"^pos_embed$", "positions"),  # CLS and patches in one; split below
    (r"^rel_pos_bias\.relative_position_bias_table$", "attention_bias.table"),
    (r"^blocks\.(\d+)\.attn\.relative_position_bias_table$", r"attention_bias.table.\1"),
    (r"^(?:norm|fc_norm)\.", "transformer.output_norm."),
    (r"^blocks\.", "transformer.blocks."),
)


def matches_beit(content: dict[str, Any]) -> bool:
    """Whether a checkpoint was written by data2vec_vision, judged by its keys."""
    state = content.get("model", content.get("module", content))
    return isinstance(state, dict) and "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state


def matches_fairseq(content: dict[str, Any]) -> bool:
    """Whether a checkpoint was written by fairseq's port of 1.0 vision, judged by its keys."""
    state = content.get("model")
    return isinstance(state, dict) and "patch_embed.conv.weight" in state


def convert_beit(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint of data2vec_vision, pretrained or fine-tuned (whose classifier is left out)."""
    state = content.get("model", content.get("module", content))
    weights, left_out = _encoder_weights(state, "student.")
    for key in ("weight", "bias"):
        if f"lm_head.{key}" in state:
            weights[f"head.proj.{key}"] = state[f"lm_head.{key}"].float()
            left_out.remove(f"lm_head.{key}")
    if content.get("model_ema"):
        weights.update(_encoder_weights(content["model_ema"], "teacher.encoder.")[0])
    args = vars(content["args"]) if "args" in content else {}
    notes = [] if args else ["the checkpoint holds no args: targets, masking and loss are those of the published Base run"]
    if "fc_norm.weight" in state:
        notes.append("fine-tuned with mean pooling: the norm after the mean stands as output norm before it")
    depth = _depth(weights)
    top_k = _target_layers(args, depth)
    method = {
        "student": _student(weights, num_heads=_heads(weights), args=args),
        "masking": node(
            "d2v.model.masking.BlockMasking",
            num_patches=args.get("num_mask_patches", 120),
            min_block=args.get("min_mask_patches_per_block", 16),
            max_block=args.get("max_mask_patches_per_block"),
        ),
        "targets": node(
            "d2v.model.targets.TopKTargets",
            top_k=top_k,
            source="ffn" if args.get("layer_results") == "fc" else "end",
            layer_norm=_beit_layer_norm(args),
            mean_norm="layer" if args.get("post_target_layer_norm", not args) else None,
        ),
        "head": node("d2v.model.heads.LinearHead"),
        "loss": node("d2v.model.losses.RegressionLoss", kind="mse", reduction="mean")
        if args.get("l2_loss")
        else node("d2v.model.losses.RegressionLoss", kind="smooth_l1", beta=args.get("l1_beta", 2.0), reduction="mean"),
        "cls_loss": None,
        "num_masks": 1,
        "shared_with_teacher": [],
    }
    start, end = args.get("ema_decay_init", 0.9998), args.get("ema_decay", 0.9998)
    return Imported(
        layout="data2vec_vision (BEiT) data2vec 1.0 vision",
        licence="CC-BY-NC 4.0 if these are the published weights",
        method=method,
        ema={"start": start, "end": end, "anneal_steps": args.get("ema_start_at", 0)},
        weights=weights,
        left_out=left_out,
        notes=notes,
    )


def convert_fairseq(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint of fairseq's 1.0 vision; its projection never learned and is left out."""
    state: dict[str, Any] = dict(content["model"])
    ema: dict[str, Tensor] = state.pop("_ema", None) or {}
    cfg = (content.get("cfg") or {}).get("model") or {}
    weights, left_out = _encoder_weights({key.removeprefix("encoder."): value for key, value in state.items()}, "student.")
    teacher, left_out_ema = _encoder_weights(ema, "teacher.encoder.")
    # Only the Transformer was averaged; what stands before it is the student's.
    if ema:
        for name in ("cls_token", "masked_input.mask_token"):
            teacher.setdefault(f"teacher.encoder.{name}", weights[f"student.{name}"].clone())
    weights.update(teacher)
    if cfg.get("layer_norm_targets") or cfg.get("instance_norm_targets"):
        mean_norm = "layer" if cfg.get("layer_norm_targets") else "instance"
    else:
        mean_norm = None
    method = {
        # fairseq builds the last norm with torch's own eps and all others with 1e-6.
        "student": _student(weights, num_heads=cfg.get("num_heads", _heads(weights)), args=cfg, output_eps=1e-5),
        "masking": node(
            "d2v.model.masking.BlockMasking",
            num_patches=cfg.get("num_mask_patches", 120),
            min_block=cfg.get("min_mask_patches_per_block", 16),
            max_block=cfg.get("max_mask_patches_per_block", 196),
        ),
        "targets": node(
            "d2v.model.targets.TopKTargets",
            top_k=cfg.get("average_top_k_layers", 6),
            source="end" if cfg.get("end_of_block_targets", True) else "ffn",
            layer_norm="instance" if cfg.get("instance_norm_target_layer") else "layer" if cfg.get("layer_norm_target_layer", True) else None,
            mean_norm=mean_norm,
        ),
        "head": node("d2v.model.heads.IdentityHead"),
        "loss": regression_loss({"loss_scale": None, "loss_beta": 0.0, **cfg}),
        "cls_loss": None,
        "num_masks": 1,
        "shared_with_teacher": ["feature_extractor"] if cfg.get("ema_transformer_only", True) else [],
    }
    return Imported(
        layout="fairseq data2vec 1.0 vision",
        licence="MIT (fairseq)",
        method=method,
        ema={"start": cfg.get("ema_decay", 0.999), "end": cfg.get("ema_end_decay", 0.9999), "anneal_steps": cfg.get("ema_anneal_end_step", 0)},
        weights=weights,
        left_out=left_out + [f"_ema.{key}" for key in left_out_ema],
        notes=[],
    )


def _encoder_weights(state: dict[str, Tensor], prefix: str) -> tuple[StateDict, list[str]]:
    # The index of the bias table is computed anew; BEiT's EMA had averaged it, so the stored one can be wrong.
    state = {key: value for key, value in state.items() if not key.endswith("relative_position_index")}
    renamed, unknown = rename(state, _our_name)
    weights = {prefix + name: value for name, value in renamed.items()}

    def take(name: str) -> Tensor | None:
        return weights.pop(prefix + name, None)

    def put(name: str, value: Tensor | None) -> None:
        if value is not None:
            weights[prefix + name] = value

    for name in ("cls_token", "masked_input.mask_token"):
        value = take(name)
        put(name, None if value is None else value[0] if name == "cls_token" else value[0, 0])
    positions = take("positions")
    if positions is not None:  # [1, 1 + N, D]
        put("positions.cls_table", positions[0, :1])
        put("positions.table", positions[0, 1:])
    per_block = []
    while (table := take(f"attention_bias.table.{len(per_block)}")) is not None:
        per_block.append(table)
    shared = take("attention_bias.table")
    if shared is not None or per_block:
        put("attention_bias.table", torch.stack([shared] if shared is not None else per_block))  # [L, offsets + 3, H]
    return weights, unknown


def _our_name(key: str) -> str | None:
    for pattern, replacement in _ENCODER_PARTS:
        if re.search(pattern, key):
            key = rename_block(re.sub(pattern, replacement, key))
            key = re.sub(r"\.gamma_(\d)$", r".scale\1.gamma", key)
            key = key.replace(".q_bias", ".query_bias").replace(".v_bias", ".value_bias")
            return key
    return None


def _student(
    weights: StateDict, num_heads: int, args: dict[str, Any], output_eps: float | None = None
) -> dict[str, Any]:
    patches = weights["student.feature_extractor.proj.weight"]  # [D, 3, p, p]
    patch_size = patches.shape[-1]
    table = weights.get("student.attention_bias.table")
    positions = weights.get("student.positions.table")
    if table is not None:
        side = (math.isqrt(table.shape[1] - 3) + 1) // 2  # (2 side - 1)^2 offsets
    elif positions is not None:
        side = math.isqrt(len(positions))
    else:
        side = 224 // patch_size
    gamma = weights.get("student.transformer.blocks.0.scale1.gamma")
    return node(
        "d2v.modalities.vision.encoder.VisionEncoder",
        image_size=side * patch_size,
        patch_size=patch_size,
        in_channels=patches.shape[1],
        width=patches.shape[0],
        depth=_depth(weights),
        num_heads=num_heads,
        masked_input="replace",
        positions=None if positions is None else "learned",
        relative_bias=None if table is None else "shared" if len(table) == 1 else "per_block",
        norm_first=True,
        num_cls=1,
        mlp_ratio=weights["student.transformer.blocks.0.mlp.0.weight"].shape[0] / patches.shape[0],
        output_eps=output_eps,
        key_bias="student.transformer.blocks.0.attention.query_bias" not in weights,
        layer_scale=None if gamma is None else args.get("layer_scale_init_value", 1e-4),
        attention_dropout=args.get("attn_drop_rate", args.get("attention_dropout", 0.0)),
        drop_path=args.get("drop_path", 0.0),
    )


def _depth(weights: StateDict) -> int:
    return len({match[1] for name in weights if (match := re.match(r"student\.transformer\.blocks\.(\d+)\.", name))})


def _heads(weights: StateDict) -> int:
    table = weights.get("student.attention_bias.table")
    if table is not None:
        return table.shape[-1]
    return weights["student.feature_extractor.proj.weight"].shape[0] // 64  # every published ViT has heads of width 64


def _target_layers(args: dict[str, Any], depth: int) -> int:
    layers = args.get("target_layers")
    if layers is None:
        return depth // 2
    if isinstance(layers, str):
        layers = [int(number) for number in re.findall(r"-?\d+", layers)]
    if sorted(layers) != list(range(depth - len(layers), depth)):
        raise UserError(f"args.target_layers is {layers}: only the last blocks of {depth} can be averaged")
    return len(layers)


def _beit_layer_norm(args: dict[str, Any]) -> str | None:
    if args.get("target_batch_norm"):
        raise UserError("args.target_batch_norm is true: no published model uses it; unsupported")
    if args.get("target_layer_norm_last", True):
        return "layer"
    return "instance" if args.get("target_instance_norm") else None
