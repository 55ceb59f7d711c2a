"""Speech checkpoints as fairseq writes them, of any shape, with random weights."""

from typing import Any

import torch

State = dict[str, Any]

CONVOLUTIONS = ((8, 10, 5), (12, 3, 2))


def rand(**shapes: tuple[int, ...]) -> State:
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


def convolutions(prefix: str) -> State:
    state, channels = {}, 1
    for number, (width, kernel, _) in enumerate(CONVOLUTIONS):
        state[f"{prefix}.{number}.0.weight"] = torch.randn(width, channels, kernel)
        state |= {f"{prefix}.{number}.2.1.{part}": torch.randn(width) for part in ("weight", "bias")}
        channels = width
    return state


def v2_audio(
    width: int = 32,
    depth: int = 2,
    prenet: int = 0,
    heads: int = 4,
    hidden: int = 64,
    positions: tuple[int, int, int] = (2, 5, 4),
    decoder: tuple[int, int, int, int] | None = (16, 2, 3, 4),
    projection: int | None = None,
    alibi: tuple[int, ...] | None = (1, 1, 4, 1, 1),
    blocks_only: bool = False,
    extra: int = 0,
    audio: State | None = None,
    **model: Any,
) -> State:
    """A fairseq data2vec 2.0 checkpoint; ``audio`` and ``model``: settings."""
    prefix = "modality_encoders.AUDIO."
    layers, kernel, groups = positions

    def block(name: str) -> State:
        shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        shapes |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        state = {f"{name}.{part}.weight": torch.randn(shape) for part, shape in shapes.items()}
        state |= {f"{name}.{part}.bias": torch.randn(shape[0]) for part, shape in shapes.items()}
        norms = [f"{name}.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
        return state | {norm: torch.randn(width) for norm in norms}

    def averaged() -> State:
        state: State = {} if alibi is None else {f"{prefix}alibi_scale": torch.randn(alibi)}
        if extra:
            state[f"{prefix}extra_tokens"] = torch.randn(1, extra, width)
        for number in range(1, layers + 1):
            state[f"{prefix}relative_positional_encoder.{number}.0.weight"] = torch.randn(
                width, width // groups, kernel
            )
            state[f"{prefix}relative_positional_encoder.{number}.0.bias"] = torch.randn(width)
        state |= {f"{prefix}context_encoder.norm.{part}": torch.randn(width) for part in ("weight", "bias")}
        for number in range(prenet):
            state |= block(f"{prefix}context_encoder.blocks.{number}")
        for number in range(depth):
            state |= block(f"blocks.{number}")
        return state

    state = averaged() | convolutions(f"{prefix}local_encoder.conv_layers")
    last = CONVOLUTIONS[-1][0]
    state |= {f"{prefix}project_features.1.{part}": torch.randn(last) for part in ("weight", "bias")}
    state |= {f"{prefix}project_features.2.weight": torch.randn(width, last)}
    state |= {f"{prefix}project_features.2.bias": torch.randn(width)}
    if decoder is not None:
        dim, number_of, size, decoder_groups = decoder
        for number in range(number_of):
            channels = width if number == 0 else dim
            state[f"{prefix}decoder.blocks.{number}.0.weight"] = torch.randn(dim, channels // decoder_groups, size)
            state[f"{prefix}decoder.blocks.{number}.0.bias"] = torch.randn(dim)
        linear = {"proj": (width, dim)}
        if projection:
            linear = {"proj.0": (projection, dim), "proj.2": (width, projection)}
        for name, shape in linear.items():
            state |= {f"{prefix}decoder.{name}.weight": torch.randn(shape)}
            state |= {f"{prefix}decoder.{name}.bias": torch.randn(shape[0])}
    ema = averaged()
    if blocks_only:
        ema = {key.removeprefix("blocks."): value for key, value in ema.items() if key.startswith("blocks.")}
    section = {
        "feature_encoder_spec": "[(8, 10, 5)] + [(12, 3, 2)]",
        "prenet_depth": prenet, "conv_pos_depth": layers, "mask_prob": 0.5, "mask_length": 3, "mask_prob_adjust": 0.05,
        "learned_alibi_scale": True, "prenet_dropout": 0.1, "num_extra_tokens": extra, **(audio or {}),
    }  # fmt: skip
    cfg = {"_name": "data2vec_multi", "depth": depth, "embed_dim": width, "num_heads": heads, "loss_scale": None}
    cfg |= {"instance_norm_target_layer": True, "modalities": {"audio": section, "image": None}}
    return {"args": None, "cfg": {"model": {**cfg, **model}}, "model": {**state, "_ema": ema}}


def v1_audio(
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 64,
    positions: tuple[int, int, int] = (2, 5, 4),
    copied_positions: bool = True,
    **model: Any,
) -> State:
    """A fairseq data2vec 1.0 checkpoint; ``model``: settings."""
    layers, kernel, groups = positions

    def transformer() -> State:
        state: State = {}
        for number in range(layers):
            state[f"pos_conv.{number}.0.weight"] = torch.randn(width, width // groups, kernel)
            state[f"pos_conv.{number}.0.bias"] = torch.randn(width)
        shapes = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {"fc1": (hidden, width), "fc2": (width, hidden)}
        for number in range(depth):
            for name, shape in shapes.items():
                state[f"layers.{number}.{name}.weight"] = torch.randn(shape)
                state[f"layers.{number}.{name}.bias"] = torch.randn(shape[0])
            for norm in ("self_attn_layer_norm", "final_layer_norm"):
                state |= {f"layers.{number}.{norm}.{part}": torch.randn(width) for part in ("weight", "bias")}
        return state | rand(layer_norm__weight=(width,), layer_norm__bias=(width,))

    encoder = transformer()
    last = CONVOLUTIONS[-1][0]
    state = convolutions("feature_extractor.conv_layers") | rand(
        mask_emb=(width,), post_extract_proj__weight=(width, last), post_extract_proj__bias=(width,),
        layer_norm__weight=(last,), layer_norm__bias=(last,),
        final_proj__weight=(width, width), final_proj__bias=(width,),
    )  # fmt: skip
    state |= {f"encoder.{name}": value for name, value in encoder.items()}
    ema = transformer()
    if copied_positions:
        ema |= {name: value for name, value in encoder.items() if name.startswith("pos_conv.")}
    cfg = {
        "_name": "data2vec_audio", "encoder_layers": depth, "encoder_embed_dim": width,
        "encoder_attention_heads": heads, "extractor_mode": "layer_norm", "pos_conv_depth": layers,
        "conv_feature_layers": "[(8, 10, 5)] + [(12, 3, 2)] * 1", "instance_norm_target_layer": True, "mask_length": 3,
    }  # fmt: skip
    return {"args": None, "cfg": {"model": {**cfg, **model}}, "model": {**state, "_ema": ema}}


def recogniser(pretrained: State, outputs: int = 32, width: int = 32) -> State:
    """What fairseq's CTC fine-tuning makes of a pretrained checkpoint."""
    dropped = ("_ema", "final_proj.", "modality_encoders.AUDIO.decoder.")
    state = {
        f"w2v_encoder.w2v_model.{name}": value
        for name, value in pretrained["model"].items()
        if not name.startswith(dropped)
    }
    state |= {"w2v_encoder.proj.weight": torch.randn(outputs, width), "w2v_encoder.proj.bias": torch.randn(outputs)}
    cfg = {"_name": "wav2vec_ctc", "layerdrop": 0.1, "mask_prob": 0.5, "w2v_args": pretrained["cfg"]}
    return {"args": None, "cfg": {"model": cfg}, "model": state}
