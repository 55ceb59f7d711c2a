"""``Data2VecTextModel`` of Hugging Face transformers and its models with a head, all data2vec 1.0."""

from pathlib import Path
from typing import Any

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.layout import SHAREABLE, Imported, StateDict, first_match, join_qkv, rename
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.official import text
from d2v.official.fairseq.v1_text import PUBLISHED, method, published_masking
from d2v.official.hugging_face.classes import class_names, task

MODEL_TYPE = "data2vec-text"
WANTED = {
    "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
}  # fmt: skip
"""The only values of these settings that d2v's encoder has."""

ENCODER_PARTS = (
    (r"^embeddings\.word_embeddings\.weight$", "feature_extractor.embedding.weight"),
    (r"^embeddings\.position_embeddings\.weight$", "positions.table"),
    (r"^embeddings\.LayerNorm\.", "transformer.input_norm."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.query\.", r"transformer.blocks.\1.attention.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.key\.", r"transformer.blocks.\1.attention.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.value\.", r"transformer.blocks.\1.attention.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"transformer.blocks.\1.attention.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"transformer.blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"transformer.blocks.\1.mlp.0."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"transformer.blocks.\1.mlp.2."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"transformer.blocks.\1.norm2."),
)
PREFIX = "data2vec_text."
_TYPES = "embeddings.token_type_embeddings.weight"
_NUMBERS = "embeddings.position_ids"  # 0, 1, 2, ... in files of older versions


def convert(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: Not looked into.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    types = state.pop(_TYPES, None)
    state.pop(_NUMBERS, None)
    notes = ["the settings of the pretraining are not in the folder: those of the published Base run are taken"]

    weights, left_out = rename(state, lambda key: first_match(key, ENCODER_PARTS), "student.")
    join_qkv(weights)
    _add_token_type(weights, types, left_out, notes)
    text.cut_positions(weights, int(config.get("pad_token_id", text.PADDING_ID)))
    student = text.student(
        weights,
        num_heads=int(config.get("num_attention_heads", 12)),
        masked_input="replace",
        eps=config.get("layer_norm_eps", 1e-12),
        dropout=config.get("hidden_dropout_prob", 0.1),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
    )
    width, fine_tuned = student["init_args"]["width"], _is_classifier(left_out)
    outputs = len(state["classifier.out_proj.bias"]) if "classifier.out_proj.bias" in state else 0
    classifier = take_head(
        state,
        {"hidden": "classifier.dense", "proj": "classifier.out_proj"},
        width=width,
        pool="cls",
        left_out=left_out,
        notes=notes,
        names=class_names(config, outputs),
        task=task(config),
    )
    return Imported(
        layout="Hugging Face Data2VecText (data2vec 1.0)" + (", fine-tuned" if fine_tuned else ""),
        licence="as its model card says (the published one: MIT)",
        method=method(student, PUBLISHED, published_masking(), node("d2v.model.heads.MLPHead"), list(SHAREABLE), notes),
        ema={"start": 0.999, "end": 0.9999, "anneal_steps": PUBLISHED["ema_anneal_end_step"]},
        weights=weights,
        example=text.example(width),
        sizes=text.shown(student),
        classifier=classifier,
        left_out=left_out,
        notes=notes,
    )


def _add_token_type(weights: StateDict, types: Any, left_out: list[str], notes: list[str]) -> None:
    """Every token of a text is of type 0, whose vector is added to the positions, which every token gets too. In place.

    Args:
        weights: With the student's positions; changed in place.
        types: Official vectors [types, D], of which fairseq's model has none; None: not there.
        left_out: Extended if there are more types than one.
        notes: Likewise.
    """
    table = weights.get("student.positions.table")
    if types is None or table is None or not types.any():
        return
    if types.ndim != 2 or types.shape[1:] != table.shape[1:]:
        raise UserError(f"{_TYPES} is {list(types.shape)}, the positions {list(table.shape)}: they do not go together")
    weights["student.positions.table"] = table + types[0].float()
    if len(types) > 1 and types[1:].any():
        left_out.append(f"{_TYPES}[1:]")
        notes.append("every token is taken to be of type 0 (token_type_ids), as in every published model")


def _is_classifier(left_out: list[str]) -> bool:
    return any(name.startswith(("classifier.", "qa_outputs.")) for name in left_out)
