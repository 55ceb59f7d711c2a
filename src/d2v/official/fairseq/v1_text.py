"""fairseq data2vec 1.0 text checkpoints (``examples/data2vec/models/data2vec_text.py``), pretrained or fine-tuned."""

from typing import Any

from d2v.checkpoints.folder import any_begins, prefixed
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import published
from d2v.official import text_tensors as text
from d2v.official.fairseq import cfg, v1
from d2v.official.foreign_heads import take_fairseq_text_classifier
from d2v.official.imported import Imported, Recipe, method_recipe
from d2v.official.names import SHAREABLE, by_rows, count, first_match, given, join_qkv, model_state, rename

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
_ROWS = (
    (r"^embed_tokens\.weight$", "front.feature_extractor.embedding.weight"),
    (r"^embed_positions\.weight$", "front.positions.table"),
    (r"^(?:layernorm_embedding|emb_layer_norm)\.", "front.input_norm."),  # the latter in old files
    *v1.BLOCK_ROWS,
)
_HEAD = r"^encoder\.(?:regression_head|lm_head)\.(?=\d+\.)"
_REFUSED = {
    "activation_fn": "gelu", "layernorm_embedding": True, "no_scale_embedding": True, "char_inputs": False,
    "no_token_positional_embeddings": False, "adaptive_input": False, "base_layers": 0,
}  # fmt: skip
_REFUSED_IN_ENCODER = {"learned_pos": True, "normalize_before": False}
_OFF_IN_TASK = {"mask_whole_words": False, "mask_stdev": 0, "freq_weighted_replacement": False}


def read_v1_text(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint, pretrained or fine-tuned.

    What the tensors tell is taken from them; missing settings are those of the published run, which no default of the
    code resembles.

    Raises:
        UserError: It is not whole, or its encoder is a variant that d2v has not.
    """
    found = Imported(model_state(content), cfg.model_settings(content))
    settings, weights, notes = found.settings, found.weights, found.notes
    ema = found.state.pop("encoder._ema", None)
    if not settings:
        settings = PUBLISHED
        notes.append("the checkpoint has no cfg.model section: the settings of the published Base run are taken")
    transformer = given(settings.get("transformer"))
    encoder = given(transformer.get("encoder"))
    _refuse_foreign(found.state, transformer, encoder)

    def student_name(key: str) -> str | None:
        if key.startswith(_PREFIX):
            name = first_match(key.removeprefix(_PREFIX), _ROWS)
            return name and f"student.{name}"
        return first_match(key, [(_HEAD, "task.head.proj.")])

    found.rename(student_name)
    teacher, left_out_ema = rename(given(ema), by_rows(_ROWS), "teacher.encoder.")
    for tensors in (weights, teacher):
        join_qkv(tensors)
        text.cut_positions(tensors)
    shared: list[str] = []
    if settings.get("ema_transformer_layers_only", True):
        shared = v1.share_copies(teacher, weights, SHAREABLE, notes)
    weights |= teacher
    head = _head(found)
    found.leave_out(left_out_ema, "encoder._ema.")
    found.left_out = [name for name in found.left_out if not name.endswith(".version")]  # of fairseq's code

    task = cfg.task_settings(content)
    notes += published.differences(published.flat(settings, "task", task), "v1_text")
    masking, tokens = _masking(task, notes)
    trunk = {
        "num_heads": v1.num_heads(encoder, "attention_heads", found),
        "eps": 1e-5,
        "dropout": transformer.get("dropout", 0.1),
        "attention_dropout": transformer.get("attention_dropout", 0.1),
        "activation_dropout": transformer.get("activation_dropout", 0.0),
        "layer_drop": encoder.get("layerdrop", 0.0),
    }
    student = text.student_recipe(weights, trunk, masked_input="replace", **tokens)
    trunk, longest = student["trunk"], student["front"]["init_args"]["max_positions"]
    notes += cfg.contradictions(
        encoder, {"layers": trunk["depth"], "embed_dim": trunk["width"]}, "transformer.encoder."
    )
    notes += cfg.contradictions(transformer, {"max_source_positions": longest}, "transformer.")
    fine_tuned = any_begins(found.left_out, "classification_heads.")
    take_fairseq_text_classifier(found, cfg.own_model_settings(content))
    method = v1_text_method(student, settings, masking, head, shared, notes)
    layout = "fairseq data2vec 1.0 text" + cfg.fine_tuned(fine_tuned)
    return found.finish(layout, "MIT (fairseq)", method, cfg.ema_schedule(settings))


def v1_text_method(
    student: Recipe, settings: dict[str, Any], masking: Recipe, head: Recipe, shared: list[str], notes: list[str]
) -> Recipe:
    """The recipe of 1.0's method on text around a student, by fairseq's settings."""
    wanted = cfg.targets(settings, student["trunk"]["depth"], end_of_block=False, notes=notes)
    return method_recipe(student, masking, wanted, head, cfg.regression_loss(settings, notes), shared)


def published_masking() -> Recipe:
    """Recipe of the published Base run's masking."""
    return _masking(_MASKING, [])[0]


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


def _head(found: Imported) -> Recipe:
    """Recipe of the head; its tensors are taken out of the weights if it is none of ours (head_layers above 2)."""
    weights = found.weights
    layers = count(weights, r"task\.head\.proj\.(\d+)\.")
    if layers == 1:
        for part in ("weight", "bias"):
            if f"task.head.proj.0.{part}" in weights:
                weights[f"task.head.proj.{part}"] = weights.pop(f"task.head.proj.0.{part}")
        return node("d2v.model.heads.LinearHead")
    if layers > 2:
        for name in prefixed(weights, "task.head."):
            found.left_out.append(name.replace("task.head.proj.", "encoder.regression_head."))
            del weights[name]
        found.notes.append(
            f"head_layers is {layers}, of which d2v has 1 and 2: a new head of 2 layers would be trained"
        )
    return node("d2v.model.heads.MLPHead")


def _masking(task: dict[str, Any], notes: list[str]) -> tuple[Recipe, dict[str, Any]]:
    """Recipe of the masking, and what the student puts in place of masked tokens.

    Args:
        task: Section ``task`` of the configuration.
        notes: Extended by what is not known or cannot be kept.
    """
    if "mask_prob" not in task and task.get("_name") != "masked_lm":
        notes.append("the masking of the pretraining is not in the file: that of the published Base run is taken")
        task = {**task, **_MASKING}
    notes += cfg.ignored(task, "cfg.task", _OFF_IN_TASK)
    task = {**_TASK_DEFAULTS, **task}
    tokens = {"random_tokens": task["random_token_prob"], "unchanged_tokens": task["leave_unmasked_prob"]}
    if task["mask_multiple_length"] == 1:
        return node("d2v.model.masking.RandomMasking", mask_ratio=task["mask_prob"]), tokens
    spans = {"mask_prob": task["mask_prob"], "mask_length": task["mask_multiple_length"]}
    usual = (_MASKING["mask_prob"], int(_MASKING["mask_multiple_length"]))
    return v1.span_masking(spans, usual, None, notes), tokens
