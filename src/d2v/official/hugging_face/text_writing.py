"""Our text encoder as ``Data2VecTextModel``, with a head as ``ForSequenceClassification``, and its tokenizer."""

import json
from typing import Any

import torch

from d2v.checkpoints.export.source import ExportSource
from d2v.checkpoints.layout import ImportedClassifier, StateDict
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.official.hugging_face.terms import Official, class_settings, refused
from d2v.official.text import PADDING_ID

TOKENIZER = "tokenizer.json"
_TYPES = "embeddings.token_type_embeddings.weight"
_SPECIAL = {  # RoBERTa's names, and BERT's
    "bos_token": ("<s>", "[CLS]"),
    "eos_token": ("</s>", "[SEP]"),
    "pad_token": ("<pad>", "[PAD]"),
    "unk_token": ("<unk>", "[UNK]"),
    "mask_token": ("<mask>", "[MASK]"),
}


def translate(source: ExportSource, encoder: Encoder, weights: StateDict) -> Official:
    """The model, not yet under official names; or what does not fit."""
    init = encoder.recipe["init_args"]
    head = source.classifier
    problems = refused(
        (init["alibi"], "its attention has ALiBi"),
        (init["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (init["max_positions"] is None, "it has no learned positions (max_positions)"),
        (head is not None and head.kind != "tanh", "its classifier has no tanh (model.head)"),
        (head is not None and "norm.weight" in head.weights, "its classifier has a norm (model.norm)"),
        (head is not None and head.pool != "cls", "its classifier does not read the first token (model.pool)"),
    )
    if problems:
        return Official(problems=problems)
    files, special = _tokenizer_files(source.assets.get(TOKENIZER), init["max_positions"])
    padding = special.get("pad_token_id", PADDING_ID)
    width, table = init["width"], weights["positions.table"]
    # Theirs counts positions from the id of padding on, and adds a vector for the type of a token, which is zero here.
    weights = {**weights, "positions.table": torch.cat([table.new_zeros(padding + 1, width), table])}
    weights.pop("masked_input.mask_token", None)
    config = {
        "architecture": "Data2VecTextModel",
        "vocab_size": init["vocab_size"],
        "hidden_size": width,
        "num_hidden_layers": init["depth"],
        "num_attention_heads": init["num_heads"],
        "intermediate_size": len(weights["transformer.blocks.0.mlp.0.bias"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": init["dropout"],
        "attention_probs_dropout_prob": init["attention_dropout"],
        "layer_norm_eps": init["eps"],
        "max_position_embeddings": padding + 1 + len(table),
        "type_vocab_size": 1,
        "bos_token_id": special.get("bos_token_id", 0),
        "eos_token_id": special.get("eos_token_id", 2),
        "pad_token_id": padding,
    }
    extra = {_TYPES: torch.zeros(1, width)}
    if head is not None:
        return _with_classifier(head, config, weights, extra, files)
    # Data2VecTextModel has a pooler that data2vec never trained: the identity, so that it reads tanh of <s>.
    extra |= {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
    return Official(config=config, weights=weights, extra=extra, files=files)


def _with_classifier(
    head: ImportedClassifier, config: dict[str, Any], weights: StateDict, extra: StateDict, files: dict[str, Any]
) -> Official:
    config |= {"architecture": "Data2VecTextForSequenceClassification", **class_settings(head)}
    parts = {"dense": "hidden", "out_proj": "proj"}
    tensors = {
        f"classifier.{theirs}.{kind}": head.weights[f"{ours}.{kind}"]
        for theirs, ours in parts.items()
        for kind in ("weight", "bias")
    }
    return Official(config=config, weights=weights, extra=extra, head=tensors, files=files)


def _tokenizer_files(text: str | None, max_length: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Files of the tokenizer, and the ids of its special tokens; nothing if there is no tokenizer.

    What it adds around a text is made ours, and special tokens that stand in a text are text, as with ours.
    """
    if text is None:
        return {}, {}
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(text)
    names = {
        kind: next((n for n in known if tokenizer.token_to_id(n) is not None), None) for kind, known in _SPECIAL.items()
    }
    special = {kind: name for kind, name in names.items() if name is not None}
    first, last = special.get("bos_token"), special.get("eos_token")
    if first is None or last is None or "pad_token" not in special:
        raise UserError(f"{TOKENIZER}: names no token that begins, ends or pads a text (<s>, </s>, <pad>)")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {f"{kind}_id": vocabulary[name] for kind, name in special.items()}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, ids["bos_token_id"]), (last, ids["eos_token_id"])],
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **special,
        "cls_token": first,
        "sep_token": last,
    }
    return {TOKENIZER: json.loads(tokenizer.to_str()), "tokenizer_config.json": settings}, ids
