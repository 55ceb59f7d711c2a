"""``Data2VecTextModel`` of Hugging Face transformers and its models with a head (1.0), read and written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from d2v.checkpoints.folder import StateDict, any_begins
from d2v.checkpoints.head_files import StoredHead
from d2v.checkpoints.recipe import node
from d2v.errors import UserError
from d2v.modalities.text.inputs import LONGEST
from d2v.modalities.text.tokenizer_files import UNKNOWN_FROM
from d2v.model.encoder import Encoder
from d2v.official import text_tensors as text
from d2v.official.fairseq.v1_text import PUBLISHED, published_masking, v1_text_method
from d2v.official.foreign_heads import take_classifier
from d2v.official.hugging_face import terms
from d2v.official.hugging_face.terms import Family, HuggingFaceModel
from d2v.official.imported import Imported
from d2v.official.names import SHAREABLE, by_rows, join_qkv

_ROWS = (
    (r"^embeddings\.word_embeddings\.weight$", "front.feature_extractor.embedding.weight"),
    (r"^embeddings\.position_embeddings\.weight$", "front.positions.table"),
    (r"^embeddings\.LayerNorm\.", "front.input_norm."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.query\.", r"trunk.blocks.\1.attention.q_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.key\.", r"trunk.blocks.\1.attention.k_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.self\.value\.", r"trunk.blocks.\1.attention.v_proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"trunk.blocks.\1.attention.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"trunk.blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"trunk.blocks.\1.mlp.0."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"trunk.blocks.\1.mlp.2."),
    (r"^encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"trunk.blocks.\1.norm2."),
)
_SETTINGS: terms.Settings = (
    ("num_attention_heads", "num_heads", 12),
    ("layer_norm_eps", "eps", 1e-12),
    ("hidden_dropout_prob", "dropout", 0.1),
    ("attention_probs_dropout_prob", "attention_dropout", 0.1),
)
_TYPES = "embeddings.token_type_embeddings.weight"
_NUMBERS = "embeddings.position_ids"  # 0, 1, 2, ... in files of older versions
_CLASSIFIER = {"hidden": "classifier.dense", "proj": "classifier.out_proj"}
TOKENIZER = "tokenizer.json"
_SPECIAL = {  # RoBERTa's names, and BERT's
    "bos_token": ("<s>", "[CLS]"),
    "eos_token": ("</s>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]"),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("<mask>", "[MASK]"),
}


def read_text_model(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: Not looked into.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    types = state.pop(_TYPES, None)
    state.pop(_NUMBERS, None)
    found = Imported(state, config)
    weights, notes = found.weights, found.notes
    notes.append("the settings of the pretraining are not in the folder: those of the published Base run are taken")
    found.rename(by_rows(_ROWS, "student."))
    join_qkv(weights)
    _add_token_type(found, types)
    text.cut_positions(weights, int(config.get("pad_token_id", text.PADDING_ID)))
    student = text.student_recipe(weights, terms.read_settings(config, _SETTINGS), masked_input="replace")
    kind = ""
    if any_begins(found.left_out, "classifier.", "qa_outputs."):
        kind = ", fine-tuned"
    classes = terms.read_class_settings(config, state, "classifier.out_proj.bias")
    take_classifier(found, _CLASSIFIER, pool="cls", **classes)
    head = node("d2v.model.heads.MLPHead")
    return found.finish(
        "Hugging Face Data2VecText (data2vec 1.0)" + kind,
        "as its model card says (the published one: MIT)",
        v1_text_method(student, PUBLISHED, published_masking(), head, list(SHAREABLE), notes),
        {"start": 0.999, "end": 0.9999, "anneal": PUBLISHED["ema_anneal_end_step"]},
    )


def _add_token_type(found: Imported, types: Any) -> None:
    """Every token of a text is of type 0, whose vector is added to the positions, which every token gets too.

    Args:
        found: With the student's positions.
        types: Official vectors [types, D], of which fairseq's model has none; None: not there.
    """
    table = found.weights.get("student.front.positions.table")
    if types is None or table is None or not types.any():
        return
    if types.ndim != 2 or types.shape[1:] != table.shape[1:]:
        raise UserError(f"{_TYPES} is {list(types.shape)}, the positions {list(table.shape)}: they do not go together")
    found.weights["student.front.positions.table"] = table + types[0].float()
    if len(types) > 1 and types[1:].any():
        found.left_out.append(f"{_TYPES}[1:]")
        found.notes.append("every token is taken to be of type 0 (token_type_ids), as in every published model")


def write_text_model(
    encoder: Encoder, weights: StateDict, head: StoredHead | None, assets: Mapping[str, str]
) -> HuggingFaceModel:
    """Our encoder as ``Data2VecTextModel``, with a head as ``ForSequenceClassification``, and its tokenizer."""
    front, trunk = encoder.recipe["front"]["init_args"], encoder.recipe["trunk"]
    problems = terms.refused(
        (front["alibi"], "its attention has ALiBi"),
        (front["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (trunk["norm_first"], "its blocks are pre-norm"),
        (front["max_positions"] is None, "it has no learned positions (max_positions)"),
        (UNKNOWN_FROM in assets.get(TOKENIZER, ""), "its dict.txt lacks types, which no tokenizer there makes <unk>"),
        (head is not None and head.kind != "tanh", "its classifier has no tanh (model.head)"),
        (head is not None and head.has_norm, "its classifier has a norm (model.norm)"),
        (head is not None and head.pool != "cls", "its classifier does not read the first token (model.pool)"),
    )
    if problems:
        return HuggingFaceModel(problems=problems)
    more, files = text_files(front, head, assets)
    padding = more["pad_token_id"]
    width, table = trunk["width"], weights["front.positions.table"]
    # Theirs counts positions from the id of padding on, and adds a vector for the type of a token, which is zero here.
    weights = {**weights, "front.positions.table": torch.cat([table.new_zeros(padding + 1, width), table])}
    weights.pop("front.masked_input.mask_token", None)
    config = {
        **terms.written_settings(trunk, weights, _SETTINGS),
        "max_position_embeddings": padding + 1 + len(table),
        "type_vocab_size": 1,
        **more,
    }
    extra = {_TYPES: torch.zeros(1, width)}
    if head is not None:
        config |= terms.class_settings(head)
        tensors = terms.head_tensors(head, _CLASSIFIER)
        return HuggingFaceModel("Data2VecTextForSequenceClassification", config, weights, extra, tensors, files)
    # Data2VecTextModel has a pooler that data2vec never trained: the identity, so that it reads tanh of <s>.
    extra |= {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    return HuggingFaceModel("Data2VecTextModel", config, weights, extra, files=files)


def text_files(
    front: Mapping[str, Any], head: StoredHead | None, assets: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """See ``own_class.py``. What the tokenizer adds around a text is made ours, and
    special tokens that stand in a text are text, as with ours; else it is as it was."""
    config = {"vocab_size": front["vocab_size"], "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": text.PADDING_ID}
    if TOKENIZER not in assets:
        return config, {}
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(assets[TOKENIZER])
    special = {}
    for kind, known in _SPECIAL.items():
        for name in reversed(known):
            if tokenizer.token_to_id(name) is not None:
                special[kind] = name
    first, last = special.get("bos_token"), special.get("eos_token")
    if first is None or last is None or "pad_token" not in special:
        raise UserError(f"{TOKENIZER}: names no token that begins, ends or pads a text (<s>, </s>, <pad>)")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    for kind in ("bos_token", "eos_token", "pad_token"):
        config[f"{kind}_id"] = vocabulary[special[kind]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, config["bos_token_id"]), (last, config["eos_token_id"])],
    )
    content = json.loads(assets[TOKENIZER])
    content |= {"post_processor": json.loads(tokenizer.to_str())["post_processor"], "truncation": None, "padding": None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": front["max_positions"] or LONGEST,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **special,
        "cls_token": first,
        "sep_token": last,
    }
    return config, {TOKENIZER: content, "tokenizer_config.json": settings}


TEXT = Family(
    "data2vec-text",
    text.FRONT_END,
    "data2vec_text.",
    _ROWS,
    {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    read_text_model,
    write_text_model,
)
