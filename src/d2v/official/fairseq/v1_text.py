"""fairseq data2vec 1.0 text checkpoints (``examples/data2vec/models/data2vec_text.py``), pretrained or fine-tuned."""

from typing import Any

from d2v.checkpoints.classifier_head import take_fairseq_text_head
from d2v.checkpoints.layout import (
    SHAREABLE,
    Imported,
    StateDict,
    count,
    first_match,
    given,
    join_qkv,
    model_state,
    rename,
)
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published, text
from d2v.official.fairseq import v1
from d2v.official.fairseq.settings import (
    contradictions,
    ema_schedule,
    ignored,
    model_settings,
    regression_loss,
    targets,
    task_settings,
)

PUBLISHED: dict[str, Any] = {
    "average_top_k_layers": 10,
    "layer_norm_target_layer": True,
    "loss_scale": 1,
    "loss_beta": 4,
    "ema_anneal_end_step": 300_000,
}
"""What the published Base run sets and the code's defaults do not (config/text/pretraining/base.yaml)."""

_MASKING = {"mask_prob": 0.35, "mask_multiple_length": 4, "random_token_prob": 0, "leave_unmasked_prob": 0}
"""Likewise, of its task."""
_TASK_DEFAULTS = {"mask_prob": 0.15, "mask_multiple_length": 1, "random_token_prob": 0.1, "leave_unmasked_prob": 0.1}

_PREFIX = "encoder.sentence_encoder."
_ENCODER_PARTS = (
    (r"^embed_tokens\.weight$", "feature_extractor.embedding.weight"),
    (r"^embed_positions\.weight$", "positions.table"),
    (r"^(?:layernorm_embedding|emb_layer_norm)\.", "transformer.input_norm."),  # the latter in old files
    *v1.BLOCK_PARTS,
)
_HEAD = r"^encoder\.(?:regression_head|lm_head)\.(?=\d+\.)"
_REFUSED = {
    "activation_fn": "gelu", "layernorm_embedding": True, "no_scale_embedding": True, "char_inputs": False,
    "no_token_positional_embeddings": False, "adaptive_input": False, "base_layers": 0,
}  # fmt: skip
_REFUSED_IN_ENCODER = {"learned_pos": True, "normalize_before": False}
_OFF_IN_TASK = {"mask_whole_words": False, "mask_stdev": 0, "freq_weighted_replacement": False}


def matches(content: dict[str, Any]) -> bool:
    """Whether a checkpoint has this layout, judged by its keys."""
    return any(key.startswith(_PREFIX) for key in model_state(content))


def convert(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint, pretrained or fine-tuned.

    What the tensors tell is taken from them; missing settings are those of the published run, which no default of the
    code resembles.

    Raises:
        UserError: It is not whole, or its encoder is a variant that d2v has not.
    """
    notes: list[str] = []
    state = model_state(content)
    ema = state.pop("encoder._ema", None)
    settings = model_settings(content)
    if not settings:
        settings = PUBLISHED
        notes.append("the checkpoint has no cfg.model section: the settings of the published Base run are taken")
    transformer = given(settings.get("transformer"))
    encoder = given(transformer.get("encoder"))
    _refuse_foreign(state, transformer, encoder)

    def student_name(key: str) -> str | None:
        if key.startswith(_PREFIX):
            name = _encoder_name(key.removeprefix(_PREFIX))
            return name and f"student.{name}"
        return first_match(key, [(_HEAD, "head.proj.")])

    weights, left_out = rename(state, student_name)
    teacher, left_out_ema = rename(ema if isinstance(ema, dict) else {}, _encoder_name, "teacher.encoder.")
    for tensors in (weights, teacher):
        join_qkv(tensors)
        text.cut_positions(tensors)
    shared: list[str] = []
    if settings.get("ema_transformer_layers_only", True):
        shared = v1.share_copies(teacher, weights, SHAREABLE, notes)
    weights.update(teacher)
    head = _head(weights, left_out, notes)

    task = task_settings(content)
    notes += published.differences(published.flat(settings, "task", task), published.V1_TEXT)
    masking, tokens = _masking(task, notes)
    width = len(weights.get("student.transformer.input_norm.weight", ())) or 64
    student = text.student(
        weights,
        num_heads=int(encoder.get("attention_heads", max(1, width // 64))),
        masked_input="replace",
        **tokens,
        eps=1e-5,
        dropout=transformer.get("dropout", 0.1),
        attention_dropout=transformer.get("attention_dropout", 0.1),
        activation_dropout=transformer.get("activation_dropout", 0.0),
        layer_drop=encoder.get("layerdrop", 0.0),
    )
    arguments = student["init_args"]
    if "attention_heads" not in encoder:
        notes.append(f"the number of heads is not in the file: taken as {arguments['num_heads']}, heads of width 64")
    said = {
        "transformer.encoder.layers": ("layers", encoder, "depth"),
        "transformer.encoder.embed_dim": ("embed_dim", encoder, "width"),
        "transformer.max_source_positions": ("max_source_positions", transformer, "max_positions"),
    }
    notes += contradictions(
        {name: (part[key], arguments[ours]) for name, (key, part, ours) in said.items() if key in part}
    )
    fine_tuned = _is_classifier(left_out)
    classifier = take_fairseq_text_head(content, state, arguments["width"], left_out, notes)
    unknown = left_out + [f"encoder._ema.{key}" for key in left_out_ema]
    return Imported(
        layout="fairseq data2vec 1.0 text" + (", fine-tuned" if fine_tuned else ""),
        licence="MIT (fairseq)",
        method=method(student, settings, masking, head, shared, notes),
        ema=ema_schedule(settings),
        weights=weights,
        example=text.example(arguments["width"]),
        sizes=text.shown(student),
        classifier=classifier,
        left_out=[name for name in unknown if not name.endswith(".version")],  # counts changes of fairseq's code
        notes=notes,
    )


def method(
    student: dict[str, Any],
    settings: dict[str, Any],
    masking: dict[str, Any],
    head: dict[str, Any],
    shared: list[str],
    notes: list[str],
) -> dict[str, Any]:
    """The recipe of 1.0's method on text around a student, by fairseq's settings."""
    return {
        "student": student,
        "masking": masking,
        "targets": targets(settings, student["init_args"]["depth"], end_of_block=False, notes=notes),
        "head": head,
        "loss": regression_loss(settings, notes),
        "cls_loss": None,
        "num_masks": 1,
        "shared_with_teacher": shared,
    }


def published_masking() -> dict[str, Any]:
    """Recipe of the published Base run's masking."""
    return _masking(_MASKING, [])[0]


def _encoder_name(key: str) -> str | None:
    return first_match(key, _ENCODER_PARTS)


def _refuse_foreign(state: dict[str, Any], transformer: dict[str, Any], encoder: dict[str, Any]) -> None:
    """Raise a UserError if settings or tensors show an encoder that d2v has not, or another model of text."""
    for section, settings, wanted in (
        ("transformer", transformer, _REFUSED),
        ("transformer.encoder", encoder, _REFUSED_IN_ENCODER),
    ):
        for key, value in wanted.items():
            if settings.get(key, value) != value:
                raise UserError(f"cfg.model.{section}.{key} is {settings[key]!r}: d2v's encoder has {value} only")
    if f"{_PREFIX}layer_norm.weight" in state:
        raise UserError("a norm behind the last block (transformer.encoder.normalize_before): d2v's encoder has none")
    if "encoder.lm_head.dense.weight" in state:
        raise UserError("a masked language model such as RoBERTa (encoder.lm_head.dense.weight), and no data2vec")


def _head(weights: StateDict, left_out: list[str], notes: list[str]) -> dict[str, Any]:
    """Recipe of the head; its tensors are taken out of the weights if it is none of ours (head_layers above 2)."""
    layers = count(weights, r"head\.proj\.(\d+)\.")
    if layers == 1:
        for part in ("weight", "bias"):
            if f"head.proj.0.{part}" in weights:
                weights[f"head.proj.{part}"] = weights.pop(f"head.proj.0.{part}")
        return node("d2v.model.heads.LinearHead")
    if layers > 2:
        odd = [name for name in weights if name.startswith("head.")]
        left_out += [name.replace("head.proj.", "encoder.regression_head.") for name in odd]
        for name in odd:
            del weights[name]
        notes.append(f"head_layers is {layers}, of which d2v has 1 and 2: a new head of 2 layers would be trained")
    return node("d2v.model.heads.MLPHead")


def _masking(task: dict[str, Any], notes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recipe of the masking, and what the student puts in place of masked tokens.

    Args:
        task: Section ``task`` of the configuration.
        notes: Extended by what is not known or cannot be kept.
    """
    if "mask_prob" not in task and task.get("_name") != "masked_lm":
        notes.append("the masking of the pretraining is not in the file: that of the published Base run is taken")
        task = {**task, **_MASKING}
    notes += ignored(task, "cfg.task", _OFF_IN_TASK)
    task = {**_TASK_DEFAULTS, **task}
    tokens = {"random_tokens": task["random_token_prob"], "unchanged_tokens": task["leave_unmasked_prob"]}
    if task["mask_multiple_length"] == 1:
        return node("d2v.model.masking.RandomMasking", mask_ratio=task["mask_prob"]), tokens
    spans = {"mask_prob": task["mask_prob"], "mask_length": task["mask_multiple_length"]}
    usual = (_MASKING["mask_prob"], int(_MASKING["mask_multiple_length"]))
    return v1.span_masking(spans, usual, notes), tokens


def _is_classifier(left_out: list[str]) -> bool:
    return any(name.startswith("classification_heads.") for name in left_out)
