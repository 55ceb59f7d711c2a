"""fairseq data2vec 1.0 speech checkpoints (``examples/data2vec/models/data2vec_audio.py``), pretrained or fine-tuned
with CTC."""

from typing import Any

import torch

from d2v.checkpoints.folder import StateDict, any_begins
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published
from d2v.official import speech_tensors as speech
from d2v.official.fairseq import cfg, v1
from d2v.official.foreign_heads import take_recogniser
from d2v.official.imported import Imported, Recipe, method_recipe
from d2v.official.names import Rule, first_match, join_qkv, model_state, rename, tensor

PUBLISHED = {
    "instance_norm_target_layer": True,
    "ema_anneal_end_step": 30_000,
    "encoder_layerdrop": 0.05,
}
"""What the published Base run sets and the code's defaults do not (config/audio/pretraining/base_librispeech.yaml)."""
_BATCH = 11_875
"""Frames of a batch of the published Base run, of 3,800,000 samples (max_tokens of the same file)."""

_ROWS = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"front.feature_extractor.layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"front.feature_extractor.layers.\1.norm."),
    (r"^layer_norm\.", "front.feature_extractor.norm."),
    (r"^post_extract_proj\.", "front.feature_extractor.proj."),
    (r"^mask_emb$", "front.masked_input.mask_token"),
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"front.positions.layers.\1."),
    *v1.BLOCK_ROWS,
)
_OFF = {
    "dropout_input": 0, "feature_grad_mult": 1, "mask_selection": "static", "mask_other": 0, "no_mask_overlap": False,
    "mask_dropout": 0, "mask_channel_prob": 0, "group_norm_target_layer": False,
}  # fmt: skip
_REFUSED = {
    "layer_type": "transformer", "activation_fn": "gelu", "extractor_mode": "layer_norm", "pos_enc_type": "abs",
}  # fmt: skip


def read_v1_speech(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint. What the tensors tell is taken from them; missing settings are fairseq's defaults.

    Raises:
        UserError: It is not whole, or a model of another kind.
    """
    found = Imported(model_state(content), cfg.model_settings(content))
    settings, weights, notes = found.settings, found.weights, found.notes
    ema = found.state.pop("_ema", None)
    speech.refuse_foreign(found.state)
    for key, value in _REFUSED.items():
        if settings.get(key, value) != value:
            raise UserError(f"cfg.model.{key} is {settings[key]!r}: d2v's encoder has {value} only")
    known = bool(settings)
    if not known:
        settings = PUBLISHED
        notes.append("the checkpoint has no cfg.model section: the settings of the published Base run are taken")
    norm = "trunk.output_norm." if settings.get("layer_norm_first") else "front.input_norm."

    def encoder_name(key: str) -> str | None:
        if key.startswith("encoder.layer_norm."):
            return key.replace("encoder.layer_norm.", norm)
        return first_match(key, _ROWS)

    def student_name(key: str) -> str | None:
        if key in ("final_proj.weight", "final_proj.bias"):
            return f"task.head.proj.{key.removeprefix('final_proj.')}"
        name = encoder_name(key)
        return name and f"student.{name}"

    found.rename(student_name)
    join_qkv(weights)
    mask_token_is_zero(weights, notes)
    take_recogniser(found, "w2v_encoder.proj")
    teacher, left_out_ema = _teacher(ema, encoder_name)
    shared = _share(teacher, weights, settings, notes)
    weights |= teacher
    found.leave_out(left_out_ema, "_ema.")

    strides = speech.strides(settings.get("conv_feature_layers"), "cfg.model.conv_feature_layers", weights, notes)
    student = speech.student_recipe(
        weights,
        strides,
        num_heads=v1.num_heads(settings, "encoder_attention_heads", found),
        norm_first=bool(settings.get("layer_norm_first")),
        eps=1e-5,
        dropout=settings.get("dropout", 0.1),
        attention_dropout=settings.get("attention_dropout", 0.1),
        activation_dropout=settings.get("activation_dropout", 0.0),
        layer_drop=settings.get("encoder_layerdrop", 0.0),
    )
    front, trunk = student["front"]["init_args"], student["trunk"]
    notes += cfg.ignored(settings, "cfg.model", _OFF)
    if known:
        real = {"encoder_layers": trunk["depth"], "encoder_embed_dim": trunk["width"]}
        notes += cfg.contradictions(settings, {**real, "pos_conv_depth": front["position_layers"]})
        notes += published.differences(settings, "v1_speech")
    layout, licence = "fairseq data2vec 1.0 speech", "MIT (fairseq)"
    if any_begins(found.left_out, *speech.AQC):
        layout, licence = "data2vec-aqc speech (data2vec 1.0)", "as its publisher says (the code: MIT)"
        notes.append("its contrastive loss is left out (quantizer, project_q, contr_proj): d2v has data2vec's own")
    layout += cfg.fine_tuned(found.head is not None, "fine-tuned with CTC")
    method = v1_speech_method(student, settings, shared, notes)
    return found.finish(layout, licence, method, cfg.ema_schedule(settings))


def v1_speech_method(student: Recipe, settings: dict[str, Any], shared: list[str], notes: list[str]) -> Recipe:
    """The recipe of 1.0's method on speech around a student, by fairseq's settings."""
    return method_recipe(
        student,
        v1.span_masking(settings, (0.65, 10), _BATCH, notes),
        cfg.targets(settings, student["trunk"]["depth"], end_of_block=False, notes=notes),
        node("d2v.model.heads.LinearHead"),
        cfg.regression_loss(settings, notes),
        shared,
    )


def mask_token_is_zero(weights: StateDict, notes: list[str]) -> None:
    """Give a student whose file holds no mask embedding one of zeros."""
    proj = tensor(weights, "student.front.feature_extractor.proj.weight", dims=2)
    if "student.front.masked_input.mask_token" not in weights:
        weights["student.front.masked_input.mask_token"] = torch.zeros(len(proj))
        notes.append("the file holds no mask embedding, as some fine-tuned models have none: it is zero")


def _teacher(ema: Any, encoder_name: Rule) -> tuple[StateDict, list[str]]:
    """The teacher's tensors, and the names that were left out."""
    if not isinstance(ema, dict) or not ema:
        return {}, []
    if not any_begins(ema, "encoder."):  # ema_transformer_only
        ema = {f"encoder.{key}": value for key, value in ema.items()}
    teacher, left_out = rename(ema, encoder_name, "teacher.encoder.")
    join_qkv(teacher)
    return teacher, left_out


def _share(teacher: StateDict, weights: StateDict, settings: dict[str, Any], notes: list[str]) -> list[str]:
    """``shared_with_teacher``. With ``ema_layers_only`` fairseq copies the student's positions into the teacher at each
    step: the copy is dropped if it is one. A mask embedding that the teacher never uses is the student's."""
    copied = []
    if settings.get("ema_layers_only", True):
        copied = ["positions"]
    if not teacher:
        return ["feature_extractor", *copied]
    mask_token = weights["student.front.masked_input.mask_token"]
    teacher.setdefault("teacher.encoder.front.masked_input.mask_token", mask_token)
    shared = v1.share_copies(teacher, weights, copied, notes)
    if "teacher.encoder.front.feature_extractor.proj.weight" not in teacher:
        shared.insert(0, "feature_extractor")
    return shared
