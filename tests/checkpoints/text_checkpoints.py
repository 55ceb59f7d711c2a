"""Text checkpoints as fairseq writes them, of any shape, with random weights."""

from typing import Any

import torch

State = dict[str, Any]

PUBLISHED_TASK = {
    "_name": "masked_lm", "mask_prob": 0.35, "mask_multiple_length": 4, "random_token_prob": 0.0,
    "leave_unmasked_prob": 0.0,
}  # fmt: skip


def norm(name: str, width: int) -> State:
    return {f"{name}.{part}": torch.randn(width) for part in ("weight", "bias")}


def linear(name: str, outputs: int, inputs: int) -> State:
    return {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.randn(outputs)}


def embeddings(vocab: int, positions: int, width: int) -> State:
    """Two rows more than positions, which no token reads."""
    table = torch.randn(2 + positions, width)
    return {
        "embed_tokens.weight": torch.randn(vocab, width),
        "embed_positions.weight": table,
        **norm("layernorm_embedding", width),
    }


def v1_text(
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 64,
    vocab: int = 40,
    positions: int = 20,
    head_layers: int = 2,
    copied: bool = True,
    teacher: bool = True,
    task: State | None = None,
    transformer: State | None = None,
    encoder: State | None = None,
    **model: Any,
) -> State:
    """A fairseq data2vec 1.0 checkpoint; ``task``, ``transformer``, ``encoder`` and ``model``: settings."""

    def sentence_encoder() -> State:
        state = {"version": torch.tensor([3.0]), **embeddings(vocab, positions, width)}
        for number in range(depth):
            name = f"layers.{number}"
            for part in ("k", "v", "q", "out"):
                state |= linear(f"{name}.self_attn.{part}_proj", width, width)
            state |= linear(f"{name}.fc1", hidden, width) | linear(f"{name}.fc2", width, hidden)
            state |= norm(f"{name}.self_attn_layer_norm", width) | norm(f"{name}.final_layer_norm", width)
        return state

    student = sentence_encoder()
    state = {f"encoder.sentence_encoder.{name}": value for name, value in student.items()}
    widths = [width, *[2 * width] * (head_layers - 1), width]
    for number in range(head_layers):
        state |= linear(f"encoder.regression_head.{2 * number}", widths[number + 1], widths[number])
    if teacher:
        ema = sentence_encoder()
        if copied:
            ema |= {name: value for name, value in student.items() if not name.startswith("layers.")}
        state["encoder._ema"] = ema
    settings = {
        "layernorm_embedding": True, "no_scale_embedding": True, "activation_fn": "gelu", "dropout": 0.1,
        "attention_dropout": 0.1, "max_source_positions": positions, **(transformer or {}),
        "encoder": {
            "embed_dim": width, "layers": depth, "attention_heads": heads, "learned_pos": True,
            "normalize_before": False, "layerdrop": 0.0, **(encoder or {}),
        },
    }  # fmt: skip
    cfg = {"_name": "data2vec_text", "transformer": settings, "loss_scale": 1.0, "loss_beta": 4.0}
    cfg |= {"layer_norm_target_layer": True, "average_top_k_layers": 10, "head_layers": head_layers, **model}
    return {"args": None, "cfg": {"model": cfg, "task": task or PUBLISHED_TASK}, "model": state}


def v2_text(
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 64,
    vocab: int = 40,
    positions: int = 20,
    decoder: tuple[int, int, int, int] = (16, 2, 3, 4),
    projection: int | None = 32,
    blocks_only: bool = True,
    text: State | None = None,
    **model: Any,
) -> State:
    """A fairseq data2vec 2.0 checkpoint; ``text`` and ``model``: settings."""
    prefix = "modality_encoders.TEXT."

    def blocks() -> State:
        state: State = {}
        for number in range(depth):
            name = f"blocks.{number}"
            state |= linear(f"{name}.attn.qkv", 3 * width, width) | linear(f"{name}.attn.proj", width, width)
            state |= linear(f"{name}.mlp.fc1", hidden, width) | linear(f"{name}.mlp.fc2", width, hidden)
            state |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
        return state

    local = embeddings(vocab, positions, width)
    state = {f"{prefix}local_encoder.{name}": value for name, value in local.items()} | blocks()
    dim, layers, kernel, groups = decoder
    for number in range(layers):
        channels = width if number == 0 else dim
        state[f"{prefix}decoder.blocks.{number}.0.weight"] = torch.randn(dim, channels // groups, kernel)
        state[f"{prefix}decoder.blocks.{number}.0.bias"] = torch.randn(dim)
    if projection is None:
        state |= linear(f"{prefix}decoder.proj", width, dim)
    else:
        state |= linear(f"{prefix}decoder.proj.0", projection, dim)
        state |= linear(f"{prefix}decoder.proj.2", width, projection)
    ema = blocks()
    if blocks_only:
        ema = {name.removeprefix("blocks."): value for name, value in ema.items()}
    section = {
        "mask_prob": 0.48, "mask_length": 1, "prenet_depth": 0, "max_source_positions": positions, "learned_pos": True,
        "layernorm_embedding": True, "no_scale_embedding": True, "dropout": 0.1, **(text or {}),
    }  # fmt: skip
    cfg = {"_name": "data2vec_multi", "depth": depth, "embed_dim": width, "num_heads": heads, "norm_eps": 1e-5}
    cfg |= {"loss_scale": 1.0, "instance_norm_target_layer": True, "ema_encoder_only": blocks_only}
    cfg |= {"modalities": {"text": section, "audio": None}, **model}
    return {"args": None, "cfg": {"model": cfg, "task": {"_name": "masked_lm"}}, "model": {**state, "_ema": ema}}


def classifier(pretrained: State, wrapped: bool, width: int = 32, classes: int = 3) -> State:
    """What fairseq's fine-tuning on GLUE makes of a pretrained checkpoint.

    Args:
        pretrained: The checkpoint.
        wrapped: As ``data2vec_text_classification`` does it, whose file keeps the pretraining's configuration; else
            as ``data2vec_text`` with a head, whose file has another task.
        width: D.
        classes: Outputs.
    """
    dropped = ("_ema", "encoder._ema", "encoder.regression_head.", "modality_encoders.TEXT.decoder.")
    state = {
        ("model." if wrapped else "") + name: value
        for name, value in pretrained["model"].items()
        if not name.startswith(dropped)
    }
    head = "classification_heads.sentence_classification_head"
    state |= linear(f"{head}.dense", width, width) | linear(f"{head}.out_proj", classes, width)
    task = {"_name": "sentence_prediction", "num_classes": classes}
    if wrapped:
        cfg = {"_name": "data2vec_text_classification", "pretrained_model_args": pretrained["cfg"]}
        return {"args": None, "cfg": {"model": cfg, "task": task}, "model": state}
    return {"args": None, "cfg": {**pretrained["cfg"], "task": task}, "model": state}
