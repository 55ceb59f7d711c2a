"""fairseq data2vec 2.0 speech checkpoints, pretrained or fine-tuned with CTC."""

import re
from typing import Any

from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import speech_tensors as speech
from d2v.official.fairseq import cfg, v2
from d2v.official.foreign_heads import take_classifier, take_recogniser
from d2v.official.imported import Imported
from d2v.official.names import SHAREABLE, first_match

_ROWS = (
    (r"^local_encoder\.conv_layers\.(\d+)\.0\.", r"front.feature_extractor.layers.\1.conv."),
    (r"^local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"front.feature_extractor.layers.\1.norm."),
    (r"^project_features\.1\.", "front.feature_extractor.norm."),
    (r"^project_features\.2\.", "front.feature_extractor.proj."),
    (r"^alibi_scale$", "front.attention_bias.scale"),
    *v2.ENCODER_ROWS,
)
_REFUSED = ("conv_pos_pre_ln", "learned_alibi", "alibi_max_pos")


def read_v2_speech(content: dict[str, Any]) -> Imported:
    """Translate a 2.0 speech checkpoint, pretrained or fine-tuned with CTC or to classify; emotion2vec has tokens, too.

    What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    found = v2.sort_v2(content, "AUDIO", _encoder_name, _REFUSED, SHAREABLE)
    settings, section, notes = found.settings, found.section, found.notes
    speech.refuse_foreign(found.state)
    trunk = v2.trunk(found)
    _flatten_alibi(found, trunk["num_heads"])
    defaults = {"decoder_width": 384, "num_layers": 4, "kernel_size": 7, "input_dropout": 0.1}
    decoder = v2.decoder(found, "d2v.model.heads.ConvDecoder1d", defaults)
    name = "cfg.model.modalities.audio.feature_encoder_spec"
    strides = speech.strides(section.get("feature_encoder_spec"), name, found.weights, notes)
    dropouts = {
        "activation_dropout": settings.get("activation_dropout", 0.0), "layer_drop": settings.get("layerdrop", 0.0)
    }  # fmt: skip
    student = speech.student_recipe(found.weights, strides, **trunk, **dropouts)
    front = student["front"]["init_args"]
    take_recogniser(found, "w2v_encoder.proj")
    take_classifier(found, {"proj": "proj"}, pool="mean")
    masking = node(
        "d2v.model.masking.SpanMasking",
        mask_ratio=section.get("mask_prob", 0.7),
        span=section.get("mask_length", 5),
        adjust=section.get("mask_prob_adjust", 0),
    )
    said = {"post_mlp_drop": settings.get("post_mlp_drop", 0.1), "prenet_dropout": section.get("prenet_dropout", 0.0)}
    notes += cfg.other_dropouts(said, trunk["dropout"])
    cls_loss = v2.cls_loss(found, rows=1)  # a mean over clips, as in v2/emotion.yaml
    unused = {key: off for key, off in v2.OFF_IN_MODEL.items() if key != "cls_loss" or cls_loss is None}
    notes += cfg.ignored(settings, "cfg.model", unused)
    notes += cfg.ignored(section, "cfg.model.modalities.audio", v2.OFF)
    real = {
        "prenet_depth": front["prenet_depth"], "conv_pos_depth": front["position_layers"],
        "num_extra_tokens": front["num_cls"],
    }  # fmt: skip
    notes += cfg.contradictions(section, real, "modalities.audio.")
    how = "fine-tuned with CTC" if "w2v_encoder.proj.weight" in found.state else "fine-tuned to classify"
    tuned = cfg.fine_tuned(found.head is not None, how)
    licence, recipe = "MIT (fairseq)", ""
    if front["num_cls"]:
        licence, recipe = "as its model card says", "emotion2vec"
    v2.finish_v2(found, "speech", tuned, licence, student, masking, decoder, cls_loss, recipe)
    if recipe:
        found.layout = f"emotion2vec (data2vec 2.0 speech){tuned}"
    elif front["in_channels"] > 1:
        found.layout, found.licence = f"TeleSpeech (data2vec 2.0 on cepstra){tuned}", "Apache 2.0 by its model card"
    return found


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
