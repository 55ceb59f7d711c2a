"""Our speech encoder as ``Data2VecAudioModel``, with a head as ``ForCTC`` or ``ForSequenceClassification``."""

from typing import Any

import torch

from d2v.checkpoints.export.source import ExportSource
from d2v.checkpoints.layout import CTCHead, ImportedClassifier, StateDict
from d2v.model.encoder import Encoder
from d2v.official.hugging_face.terms import Official, class_settings, refused

_EXTRACTOR_EPS = 1e-5  # of the norm behind the convolutions, which has no setting of its own there


def translate(source: ExportSource, encoder: Encoder, weights: StateDict) -> Official:
    """The model, not yet under official names; or what does not fit."""
    init = encoder.recipe["init_args"]
    head = source.classifier
    problems = refused(
        (init["alibi"], "its attention has ALiBi (data2vec 2.0)"),
        (init["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (init["norm_first"], "its blocks are pre-norm"),
        (init["eps"] != _EXTRACTOR_EPS, f"its norms have eps {init['eps']}, and one of them {_EXTRACTOR_EPS}"),
        (head is not None and head.kind != "linear", "its classifier has a tanh"),
        (head is not None and "norm.weight" in head.weights, "its classifier has a norm (model.norm)"),
        (head is not None and head.pool != "mean", "its classifier does not read the mean (model.pool)"),
    )
    if problems:
        return Official(problems=problems)
    channels, kernels, strides = ([layer[i] for layer in init["extractor"]] for i in range(3))
    masks = "masked_input.mask_token" in weights  # an encoder that drops masked frames has none
    config: dict[str, Any] = {
        "architecture": "Data2VecAudioModel",
        "hidden_size": init["width"],
        "num_hidden_layers": init["depth"],
        "num_attention_heads": init["num_heads"],
        "intermediate_size": len(weights["transformer.blocks.0.mlp.0.bias"]),
        "hidden_act": "gelu",
        "hidden_dropout": init["dropout"],
        "activation_dropout": init["activation_dropout"],
        "attention_dropout": init["attention_dropout"],
        "layerdrop": init["layer_drop"],
        "layer_norm_eps": init["eps"],
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "layer",
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": False,
        "num_conv_pos_embeddings": init["position_layers"],
        "num_conv_pos_embedding_groups": init["position_groups"],
        "conv_pos_kernel_size": init["position_kernel"],
        "mask_time_prob": 0.05 if masks else 0.0,
        "mask_feature_prob": 0.0,
    }
    files = {"preprocessor_config.json": _PREPROCESSOR}
    if source.ctc is not None:
        return _with_ctc(source.ctc, config, weights, files)
    if head is not None:
        return _with_classifier(head, config, weights, files)
    return Official(config=config, weights=weights, files=files)


def _with_ctc(ctc: CTCHead, config: dict[str, Any], weights: StateDict, files: dict[str, Any]) -> Official:
    """The blank is transformers' pad token; names in <> are special tokens, which it never writes either."""
    symbols = list(ctc.symbols or ())
    blank, others = symbols[0], [symbol for symbol in symbols[1:] if symbol.startswith("<") and symbol.endswith(">")]
    config |= {
        "architecture": "Data2VecAudioForCTC",
        "vocab_size": len(symbols),
        "pad_token_id": 0,
        "bos_token_id": symbols.index("<s>") if "<s>" in symbols else None,
        "eos_token_id": symbols.index("</s>") if "</s>" in symbols else None,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
    }
    tokenizer = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": blank,
        "unk_token": "<unk>" if "<unk>" in others else blank,
        "bos_token": "<s>" if "<s>" in others else blank,
        "eos_token": "</s>" if "</s>" in others else blank,
        "additional_special_tokens": [name for name in others if name not in ("<s>", "</s>", "<unk>")],
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    files = {
        "preprocessor_config.json": {**_PREPROCESSOR, "processor_class": "Wav2Vec2Processor"},
        "vocab.json": {symbol: number for number, symbol in enumerate(symbols)},
        "tokenizer_config.json": tokenizer,
    }
    head = {"lm_head.weight": ctc.weight, "lm_head.bias": ctc.bias}
    return Official(config=config, weights=weights, head=head, files=files)


def _with_classifier(
    head: ImportedClassifier, config: dict[str, Any], weights: StateDict, files: dict[str, Any]
) -> Official:
    """Theirs has a linear layer in front of the mean as well, which is the identity here."""
    width = config["hidden_size"]
    config |= {
        "architecture": "Data2VecAudioForSequenceClassification",
        "classifier_proj_size": width,
        **class_settings(head),
    }
    tensors = {
        "projector.weight": torch.eye(width),
        "projector.bias": torch.zeros(width),
        "classifier.weight": head.weights["proj.weight"],
        "classifier.bias": head.weights["proj.bias"],
    }
    return Official(config=config, weights=weights, head=tensors, files=files)


_PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16_000,
    "padding_value": 0.0,
    "padding_side": "right",
    "do_normalize": True,
    "return_attention_mask": True,
}
