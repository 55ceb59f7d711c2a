"""The official settings of a recipe of d2v: what fairseq or data2vec_vision would be configured with."""

from typing import Any


def settings_of(module: Any, kind: str, second: bool) -> dict[str, Any]:
    """Nested as in the official configs; the names are theirs."""
    student, task = module.method.student, module.method.task
    front, trunk = student.front, student.trunk
    block = trunk.blocks[0]
    targets, loss, ema = task.targets, task.loss, module.ema
    common = {
        "loss_beta": loss.beta if loss.kind == "smooth_l1" else 0.0,
        "loss_scale": 1.0 if loss.reduction == "sum" else None,
        "average_top_k_layers": targets.top_k,
        "layer_norm_target_layer": targets.layer_norm == "layer",
        "instance_norm_target_layer": targets.layer_norm == "instance",
        "layer_norm_targets": targets.mean_norm == "layer",
        "ema_decay": ema.start,
        "ema_end_decay": ema.end,
        "ema_anneal_end_step": 100_000,
    }
    hidden = block.mlp[0].out_features
    if second:
        return common | _second(kind, student, task, hidden)
    if kind == "speech":
        convolutions = [(layer.conv.out_channels, layer.conv.kernel_size[0], layer.conv.stride[0])
                        for layer in front.feature_extractor.layers]  # fmt: skip
        kernel = front.positions.layers[0].weight.shape[2]
        return common | {
            "extractor_mode": "layer_norm", "encoder_layers": trunk.depth, "encoder_embed_dim": trunk.width,
            "encoder_ffn_embed_dim": hidden, "encoder_attention_heads": trunk.num_heads, "dropout": trunk.dropout,
            "attention_dropout": block.attention.dropout, "activation_dropout": 0.0,
            "encoder_layerdrop": trunk.layer_drop, "conv_feature_layers": str(convolutions),
            "conv_pos": kernel * len(front.positions.layers), "pos_conv_depth": len(front.positions.layers),
            "conv_pos_groups": front.positions.layers[0].groups, "mask_prob": 0.65, "mask_channel_prob": 0.0,
            "require_same_masks": True, "mask_dropout": 0.0, "ema_transformer_only": True, "ema_layers_only": True,
            "max_update": 400_000,
        }  # fmt: skip
    if kind == "text":
        encoder = {
            "embed_dim": trunk.width, "ffn_embed_dim": hidden, "layers": trunk.depth,
            "attention_heads": trunk.num_heads, "normalize_before": False, "learned_pos": True, "layerdrop": 0.0,
        }  # fmt: skip
        transformer = {
            "dropout": trunk.dropout, "attention_dropout": block.attention.dropout, "activation_dropout": 0.0,
            "encoder": encoder, "max_source_positions": front.max_positions, "layernorm_embedding": True,
            "no_scale_embedding": True, "activation_fn": "gelu",
        }  # fmt: skip
        return common | {
            "max_positions": front.max_positions, "head_layers": 2, "transformer": transformer,
            "ema_transformer_layers_only": True, "loss_scale": common["loss_scale"] or -1,
        }  # fmt: skip
    return common | {
        "img_size": front.image_size[0], "patch_size": front.patch_size, "embed_dim": trunk.width,
        "depth": trunk.depth, "num_heads": trunk.num_heads, "drop_path_rate": trunk.drop_path,
        "attn_drop_rate": block.attention.dropout, "top_k": targets.top_k, "beta": loss.beta,
    }  # fmt: skip


def _second(kind: str, student: Any, task: Any, hidden: int) -> dict[str, Any]:
    front, trunk, head = student.front, student.trunk, task.head
    block, convolution = trunk.blocks[0], head.layers[0]
    projections = [layer for layer in head.proj.modules() if hasattr(layer, "out_features")]
    decoder = {
        "decoder_dim": convolution.weight.shape[0], "decoder_groups": convolution.groups,
        "decoder_kernel": convolution.weight.shape[2], "decoder_layers": len(head.layers),
        "input_dropout": head.input_dropout.p, "add_positions_masked": False, "add_positions_all": False,
        "decoder_residual": head.residual, "projection_layers": len(projections),
        "projection_ratio": projections[0].out_features / convolution.weight.shape[0],
    }  # fmt: skip
    alibi = type(front.attention_bias).__name__ == "ALiBi"
    medium = {
        "prenet_depth": len(front.prenet), "prenet_layerdrop": trunk.layer_drop, "prenet_dropout": trunk.dropout,
        "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "num_extra_tokens": front.num_cls,
        "init_extra_token_zero": False, "mask_noise_std": head.mask_noise, "encoder_zero_mask": True,
        "mask_channel_prob": 0.0, "keep_masked_pct": 0.0, "mask_prob": 0.5, "mask_length": 5, "local_grad_mult": 1.0,
        "use_alibi_encoder": alibi, "alibi_scale": 1.0, "learned_alibi": False, "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True, "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": trunk.num_heads, "model_depth": trunk.depth, "decoder": decoder,
        "ema_local_encoder": "feature_extractor" not in task.shared_with_teacher,
    }  # fmt: skip
    if kind == "speech":
        convolutions = [(layer.conv.out_channels, layer.conv.kernel_size[0], layer.conv.stride[0])
                        for layer in front.feature_extractor.layers]  # fmt: skip
        depth = len(front.positions.layers)
        medium |= {
            "feature_encoder_spec": str(convolutions), "extractor_mode": "layer_norm", "conv_pos_depth": depth,
            "conv_pos_width": depth * front.positions.layers[0].weight.shape[2],
            "conv_pos_groups": front.positions.layers[0].groups, "conv_pos_pre_ln": False,
        }  # fmt: skip
    elif kind == "text":
        medium |= {"max_source_positions": front.max_positions, "dropout": trunk.dropout}
    else:
        medium |= {"input_size": front.image_size[0], "patch_size": front.patch_size, "in_chans": 3}
    names = {"speech": "AUDIO", "text": "TEXT", "vision": "IMAGE"}
    return {
        "supported_modality": names[kind], "depth": trunk.depth, "num_heads": trunk.num_heads, "norm_eps": trunk.eps,
        "norm_affine": True, "embed_dim": trunk.width, "mlp_ratio": hidden / trunk.width,
        "encoder_dropout": trunk.dropout, "post_mlp_drop": trunk.dropout, "dropout_input": 0.0,
        "attention_dropout": block.attention.dropout, "activation_dropout": 0.0, "layerdrop": trunk.layer_drop,
        "ema_encoder_only": "input_norm" in task.shared_with_teacher, "d2v_loss": 1.0,
        "cls_loss": 0.0 if task.cls_loss is None else task.cls_loss.weight,
        "modalities": {names[kind].lower(): medium},
    }  # fmt: skip
