"""fairseq data2vec 2.0 audio checkpoints, pretrained or fine-tuned with CTC."""

import re
from typing import Any

from d2v.checkpoints.ctc_head import take_fairseq_head
from d2v.checkpoints.layout import SHAREABLE, Imported, first_match
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published, speech
from d2v.official.fairseq import v2
from d2v.official.fairseq.settings import contradictions, ema_schedule, ignored
from d2v.official.fairseq.v2 import V2Checkpoint

_ENCODER_PARTS = (
    (r"^local_encoder\.conv_layers\.(\d+)\.0\.", r"feature_extractor.layers.\1.conv."),
    (r"^local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.layers.\1.norm."),
    (r"^project_features\.1\.", "feature_extractor.norm."),
    (r"^project_features\.2\.", "feature_extractor.proj."),
    (r"^alibi_scale$", "attention_bias.scale"),
    *v2.TRANSFORMER_PARTS,
)
_REFUSED = ("num_extra_tokens", "conv_pos_pre_ln", "learned_alibi", "alibi_max_pos")
_OFF = {
    "inverse_mask": False, "add_masks": False, "remove_masks": False, "keep_masked_pct": 0, "mask_dropout": 0,
    "mask_channel_prob": 0, "mask_prob_min": None, "encoder_zero_mask": True, "local_grad_mult": 1,
}  # fmt: skip
_OFF_IN_MODEL = {"dropout_input": 0, "cls_loss": 0, "recon_loss": 0}


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    return v2.matches(content, "AUDIO")


def convert(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 audio checkpoint, pretrained or fine-tuned with CTC.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    checkpoint = v2.read(content, "AUDIO", _encoder_name, _REFUSED, SHAREABLE)
    settings, audio, weights, notes = checkpoint.settings, checkpoint.section, checkpoint.weights, checkpoint.notes
    speech.refuse_foreign(checkpoint.state)
    ctc = take_fairseq_head(checkpoint.state, checkpoint.left_out, notes)
    v2.add_teacher(checkpoint, _encoder_name)
    transformer = v2.transformer(checkpoint)
    _flatten_alibi(checkpoint, transformer["num_heads"])
    defaults = {"decoder_width": 384, "num_layers": 4, "kernel_size": 7, "input_dropout": 0.1}
    head = v2.decoder(checkpoint, "d2v.model.heads.ConvDecoder1d", defaults)
    name = "cfg.model.modalities.audio.feature_encoder_spec"
    strides = speech.strides(audio.get("feature_encoder_spec"), name, weights, notes)
    student = speech.student(
        weights,
        strides,
        activation_dropout=settings.get("activation_dropout", 0.0),
        layer_drop=settings.get("layerdrop", 0.0),
        **transformer,
    )
    arguments = student["init_args"]
    masking = node(
        "d2v.model.masking.SpanMasking",
        mask_ratio=audio.get("mask_prob", 0.7),
        span=audio.get("mask_length", 5),
        adjust=audio.get("mask_prob_adjust", 0),
    )
    dropouts = {"post_mlp_drop": settings.get("post_mlp_drop", 0.1), "prenet_dropout": audio.get("prenet_dropout", 0.0)}
    notes += [
        f"{key} is {value}, encoder_dropout {arguments['dropout']}: d2v has one dropout, the latter is taken"
        for key, value in dropouts.items()
        if value != arguments["dropout"]
    ]
    notes += ignored(settings, "cfg.model", _OFF_IN_MODEL) + ignored(audio, "cfg.model.modalities.audio", _OFF)
    said = {
        "depth": (settings.get("depth", 8), arguments["depth"]),
        "embed_dim": (settings.get("embed_dim", 768), arguments["width"]),
        "modalities.audio.prenet_depth": (audio.get("prenet_depth", 4), arguments["prenet_depth"]),
        "modalities.audio.conv_pos_depth": (audio.get("conv_pos_depth", 5), arguments["position_layers"]),
    }
    notes += contradictions(said)
    recipe = published.by_width(published.V2_AUDIO, arguments["width"])
    notes += published.differences(published.flat(settings, "audio", audio), recipe)
    return Imported(
        layout="fairseq data2vec 2.0 audio" + (", fine-tuned with CTC" if ctc else ""),
        licence="MIT (fairseq)",
        method=v2.method(checkpoint, student, masking, head, cls_loss=None),
        ema=ema_schedule(settings),
        weights=weights,
        example=speech.example(arguments["width"]),
        sizes=speech.shown(student),
        ctc=ctc,
        left_out=checkpoint.left_out,
        notes=notes,
    )


def _encoder_name(key: str) -> str | None:
    position = re.fullmatch(r"relative_positional_encoder\.(\d+)\.0\.(weight|bias)", key)
    if position:  # entry 0 of fairseq's list is a transposition
        return f"positions.layers.{int(position[1]) - 1}.{position[2]}"
    return first_match(key, _ENCODER_PARTS)


def _flatten_alibi(checkpoint: V2Checkpoint, num_heads: int) -> None:
    """The scale [1, 1, H, 1, 1], in old checkpoints [1, H, 1, 1], becomes [H]; one for all heads is repeated."""
    weights = checkpoint.weights
    for name in [name for name in weights if name.endswith("attention_bias.scale")]:
        shape = weights[name].shape
        if weights[name].numel() not in (1, num_heads) or len(shape) < 4 or shape[-3] not in (1, num_heads):
            raise UserError(
                f"alibi_scale is {list(shape)}, for {num_heads} heads: d2v has one scale a head, in all layers"
            )
        weights[name] = weights[name].flatten().expand(num_heads).clone()
        if shape[-3] != num_heads and name.startswith("student."):
            checkpoint.notes.append(
                "alibi_scale was one number for all heads: each head starts with it and learns its own"
            )
    trained = checkpoint.section.get("learned_alibi_scale", False)
    if "student.attention_bias.scale" in weights and not trained:
        checkpoint.notes.append("learned_alibi_scale is not set: d2v would learn the scale nevertheless")
