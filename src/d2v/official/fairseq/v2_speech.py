"""fairseq data2vec 2.0 speech checkpoints, pretrained or fine-tuned with CTC."""

import re
from typing import Any

from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published
from d2v.official import speech_tensors as speech
from d2v.official.fairseq import v2
from d2v.official.fairseq.cfg import contradictions, ema_schedule, ignored, other_dropouts
from d2v.official.foreign_heads import take_recogniser
from d2v.official.imported import Imported
from d2v.official.names import SHAREABLE, first_match

_ROWS = (
    (r"^local_encoder\.conv_layers\.(\d+)\.0\.", r"front.feature_extractor.layers.\1.conv."),
    (r"^local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"front.feature_extractor.layers.\1.norm."),
    (r"^project_features\.1\.", "front.feature_extractor.norm."),
    (r"^project_features\.2\.", "front.feature_extractor.proj."),
    (r"^alibi_scale$", "front.attention_bias.scale"),
    *v2.TRANSFORMER_ROWS,
)
_REFUSED = ("num_extra_tokens", "conv_pos_pre_ln", "learned_alibi", "alibi_max_pos")
_OFF = {
    "inverse_mask": False, "add_masks": False, "remove_masks": False, "keep_masked_pct": 0, "mask_dropout": 0,
    "mask_channel_prob": 0, "mask_prob_min": None, "encoder_zero_mask": True, "local_grad_mult": 1,
}  # fmt: skip
_OFF_IN_MODEL = {"dropout_input": 0, "cls_loss": 0, "recon_loss": 0}


def read_v2_speech(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 speech checkpoint, pretrained or fine-tuned with CTC.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    checkpoint = v2.sort_v2(content, "AUDIO", _encoder_name, _REFUSED, SHAREABLE)
    settings, section, weights, notes = checkpoint.settings, checkpoint.section, checkpoint.weights, checkpoint.notes
    speech.refuse_foreign(checkpoint.state)
    v2.add_teacher(checkpoint, _encoder_name)
    trunk = v2.trunk(checkpoint)
    _flatten_alibi(checkpoint, trunk["num_heads"])
    defaults = {"decoder_width": 384, "num_layers": 4, "kernel_size": 7, "input_dropout": 0.1}
    decoder = v2.decoder(checkpoint, "d2v.model.heads.ConvDecoder1d", defaults)
    name = "cfg.model.modalities.audio.feature_encoder_spec"
    student = speech.student_recipe(
        weights,
        speech.strides(section.get("feature_encoder_spec"), name, weights, notes),
        **trunk,
        activation_dropout=settings.get("activation_dropout", 0.0),
        layer_drop=settings.get("layerdrop", 0.0),
    )
    front, trunk = student["front"]["init_args"], student["trunk"]
    head = take_recogniser(checkpoint.state, "w2v_encoder.proj", trunk["width"], checkpoint.left_out, notes)
    masking = node(
        "d2v.model.masking.SpanMasking",
        mask_ratio=section.get("mask_prob", 0.7),
        span=section.get("mask_length", 5),
        adjust=section.get("mask_prob_adjust", 0),
    )
    dropouts = {
        "post_mlp_drop": settings.get("post_mlp_drop", 0.1), "prenet_dropout": section.get("prenet_dropout", 0.0)
    }  # fmt: skip
    notes += other_dropouts(dropouts, trunk["dropout"])
    notes += ignored(settings, "cfg.model", _OFF_IN_MODEL) + ignored(section, "cfg.model.modalities.audio", _OFF)
    said = {
        "depth": (settings.get("depth", 8), trunk["depth"]),
        "embed_dim": (settings.get("embed_dim", 768), trunk["width"]),
        "modalities.audio.prenet_depth": (section.get("prenet_depth", 4), front["prenet_depth"]),
        "modalities.audio.conv_pos_depth": (section.get("conv_pos_depth", 5), front["position_layers"]),
    }
    notes += contradictions(said)
    notes += published.v2_differences(settings, "audio", section, published.V2_SPEECH, trunk["width"])
    return Imported(
        layout="fairseq data2vec 2.0 speech" + (", fine-tuned with CTC" if head else ""),
        licence="MIT (fairseq)",
        method=v2.v2_method(checkpoint, student, masking, decoder),
        ema=ema_schedule(settings),
        weights=weights,
        head=head,
        left_out=checkpoint.left_out,
        notes=notes,
    )


def _encoder_name(key: str) -> str | None:
    position = re.fullmatch(r"relative_positional_encoder\.(\d+)\.0\.(weight|bias)", key)
    if position:  # entry 0 of fairseq's list is a transposition
        return f"front.positions.layers.{int(position[1]) - 1}.{position[2]}"
    return first_match(key, _ROWS)


def _flatten_alibi(checkpoint: v2.V2Checkpoint, num_heads: int) -> None:
    """The scale [1, 1, H, 1, 1], in old checkpoints [1, H, 1, 1], becomes [H]; one for all heads is repeated."""
    weights = checkpoint.weights
    for name in weights:
        if not name.endswith("attention_bias.scale"):
            continue
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
    if "student.front.attention_bias.scale" in weights and not trained:
        checkpoint.notes.append("learned_alibi_scale is not set: d2v would learn the scale nevertheless")
