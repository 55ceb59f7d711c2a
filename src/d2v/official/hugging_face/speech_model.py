"""``Data2VecAudioModel`` of Hugging Face transformers and its models with a head (1.0), read and written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.head_files import StoredHead
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.official import speech_tensors as speech
from d2v.official.fairseq.v1_speech import PUBLISHED, mask_token_is_zero, v1_speech_method
from d2v.official.foreign_heads import take_classifier, take_recogniser, with_outputs
from d2v.official.hugging_face import terms
from d2v.official.hugging_face.terms import Family, HuggingFaceModel
from d2v.official.imported import Imported
from d2v.official.names import by_rows, join_qkv
from d2v.text_files import read_json

_ROWS = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"front.feature_extractor.layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"front.feature_extractor.layers.\1.norm."),
    (r"^feature_projection\.layer_norm\.", "front.feature_extractor.norm."),
    (r"^feature_projection\.projection\.", "front.feature_extractor.proj."),
    (r"^masked_spec_embed$", "front.masked_input.mask_token"),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"front.positions.layers.\1."),
    (r"^encoder\.layer_norm\.", "front.input_norm."),
    (r"^encoder\.layers\.(\d+)\.attention\.([qkv])_proj\.", r"trunk.blocks.\1.attention.\2_proj."),
    (r"^encoder\.layers\.(\d+)\.attention\.out_proj\.", r"trunk.blocks.\1.attention.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm\.", r"trunk.blocks.\1.norm1."),
    (r"^encoder\.layers\.(\d+)\.final_layer_norm\.", r"trunk.blocks.\1.norm2."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"trunk.blocks.\1.mlp.0."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.output_dense\.", r"trunk.blocks.\1.mlp.2."),
)
_SETTINGS: terms.Settings = (
    ("num_attention_heads", "num_heads", 12),
    ("layer_norm_eps", "eps", 1e-5),
    ("hidden_dropout", "dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.1),
    ("layerdrop", "layer_drop", 0.1),
)
_EXTRACTOR_EPS = 1e-5  # of the norm behind the convolutions, which has no setting of its own there
_PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16_000,
    "padding_value": 0.0, "padding_side": "right", "do_normalize": True, "return_attention_mask": True,
}  # fmt: skip


def read_speech_model(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: With ``vocab.json``, if it is a recogniser.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    speech.refuse_foreign(state, layer_norm_in_extractor=True)

    found = Imported(state, config)
    weights, notes = found.weights, found.notes
    notes.append("the settings of the pretraining are not in the folder: those of the published Base run are taken")
    found.rename(by_rows(_ROWS, "student."))
    join_qkv(weights)
    mask_token_is_zero(weights, notes)
    trunk = terms.read_settings(config, _SETTINGS)
    eps = trunk["eps"]
    if eps != _EXTRACTOR_EPS:
        notes.append(
            f"layer_norm_eps is {eps}: d2v takes it for the Transformer, and 1e-5 for the extractor's last norm"
        )
    strides = speech.strides(_convolutions(config), "conv_dim, conv_kernel and conv_stride", weights, notes)
    student = speech.student_recipe(weights, strides, **trunk)
    kind = ", fine-tuned with CTC"
    _take_recogniser(found, folder)
    if found.head is None:
        kind = ", fine-tuned"
        _take_classifier(found)
    return found.finish(
        "Hugging Face Data2VecAudio (data2vec 1.0)" + (kind if found.head else ""),
        "as its model card says (the published ones: Apache 2.0)",
        v1_speech_method(student, PUBLISHED, ["feature_extractor", "positions"], notes),
        {"start": 0.999, "end": 0.9999, "anneal": PUBLISHED["ema_anneal_end_step"]},
    )


def _convolutions(config: dict[str, Any]) -> Any:
    """The extractor's layers; None if the file does not name them."""
    columns = [config.get(key) for key in ("conv_dim", "conv_kernel", "conv_stride")]
    if not all(isinstance(column, list) for column in columns):
        return None
    return [list(layer) for layer in zip(*columns, strict=False)]


def _take_recogniser(found: Imported, folder: Path) -> None:
    """Take the head with its symbols by ``vocab.json``; transformers' blank, the pad token, is put first, like ours."""
    take_recogniser(found, "lm_head")
    if found.head is None or not (folder / "vocab.json").is_file():
        return
    symbols = {number: _symbol(symbol) for symbol, number in read_json(folder / "vocab.json").items()}
    outputs, blank = found.head.num_outputs, found.settings.get("pad_token_id") or 0
    if symbols.keys() != set(range(outputs)):
        raise UserError(f"vocab.json: its {len(symbols)} symbols do not number the {outputs} outputs of lm_head")
    if blank not in symbols:
        raise UserError(f"{terms.CONFIG}: pad_token_id is {blank!r}, and vocab.json has no such symbol")
    order = sorted(range(outputs), key=lambda number: (number != blank, number))
    found.head = with_outputs(found.head, order, tuple(symbols[number] for number in order))


def _take_classifier(found: Imported) -> None:
    """Take the head of ``Data2VecAudioForSequenceClassification``: two linear layers around a mean over time, with
    nothing between them, which are one linear layer behind the mean. Heads for frames and speakers are none of ours."""
    state, notes = found.state, found.notes
    if "projector.weight" not in state or "classifier.weight" not in state:
        return
    if "tdnn.0.kernel.weight" in state or "objective.weight" in state:
        return
    if "layer_weights" in state:
        notes.append("the classifier is left out: it reads a weighted sum of all layers (use_weighted_layer_sum)")
        return
    names = ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    layers = [state[name].double() for name in names if isinstance(state.get(name), Tensor)]
    if len(layers) == len(names):
        inner, inner_bias, outer, outer_bias = layers
        whole = inner.shape == (len(inner_bias), found.width) and outer.shape == (len(outer_bias), len(inner_bias))
    if len(layers) < len(names) or not whole:
        notes.append(f"the classifier ({', '.join(names)}) is not whole and is left out")
        return
    found.left_out = [name for name in found.left_out if not name.startswith("projector.")]
    state["classifier.weight"], state["classifier.bias"] = outer @ inner, outer @ inner_bias + outer_bias
    notes.append("its projector and classifier, two linear layers with nothing between them, are one here")
    classes = terms.read_class_settings(found.settings, state, "classifier.bias")
    take_classifier(found, {"proj": "classifier"}, pool="mean", **classes)


def _symbol(symbol: str) -> str:
    """Ours are in <> if they are never written, and | is the word boundary."""
    if symbol == " ":
        return "|"
    return re.sub(r"^\[([A-Z]+)\]$", lambda name: f"<{name[1].lower()}>", symbol)


def write_speech_model(
    encoder: Encoder, weights: StateDict, head: StoredHead | None, assets: Mapping[str, str]
) -> HuggingFaceModel:
    """Our encoder as ``Data2VecAudioModel``, with a head as ``ForCTC`` or ``ForSequenceClassification``."""
    front, trunk = encoder.recipe["front"]["init_args"], encoder.recipe["trunk"]
    problems = terms.refused(
        (front["in_channels"] > 1, "it reads cepstra, and no waveforms"),
        (front["alibi"], "its attention has ALiBi (data2vec 2.0)"),
        (front.get("in_channels", 1) > 1, "it reads cepstra"),
        (front["num_cls"], f"it has {front['num_cls']} CLS tokens"),
        (front["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (trunk["norm_first"], "its blocks are pre-norm"),
        (trunk["eps"] != _EXTRACTOR_EPS, f"its norms have eps {trunk['eps']}, and one of them {_EXTRACTOR_EPS}"),
        (head is not None and head.kind != "linear", "its classifier has a tanh"),
        (head is not None and head.has_norm, "its classifier has a norm (model.norm)"),
        (head is not None and head.pool == "cls", "its classifier does not read the mean (model.pool)"),
    )
    if problems:
        return HuggingFaceModel(problems=problems)
    channels, kernels, strides = (list(column) for column in zip(*front["extractor"], strict=True))
    masks = "front.masked_input.mask_token" in weights  # an encoder that drops masked frames has none
    config = {
        **terms.written_settings(trunk, weights, _SETTINGS),
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "layer",
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": False,
        "num_conv_pos_embeddings": front["position_layers"],
        "num_conv_pos_embedding_groups": front["position_groups"],
        "conv_pos_kernel_size": front["position_kernel"],
        "mask_time_prob": 0.05 if masks else 0.0,
        "mask_feature_prob": 0.0,
    }
    more, files = speech_files(front, head, assets)
    config |= more
    if head is None:
        return HuggingFaceModel("Data2VecAudioModel", config, weights, files=files)
    if head.task == "ctc":
        tensors = terms.head_tensors(head, {"proj": "lm_head"})
        return HuggingFaceModel("Data2VecAudioForCTC", config, weights, head=tensors, files=files)
    # Theirs has a linear layer in front of the mean as well, which is the identity here.
    width = trunk["width"]
    config |= {"classifier_proj_size": width, **terms.class_settings(head)}
    tensors = {"projector.weight": torch.eye(width), "projector.bias": torch.zeros(width)}
    tensors |= terms.head_tensors(head, {"proj": "classifier"})
    return HuggingFaceModel("Data2VecAudioForSequenceClassification", config, weights, head=tensors, files=files)


def speech_files(
    front: Mapping[str, Any], head: StoredHead | None, assets: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """See ``own_class.py``. A recogniser's blank is transformers' pad token; names in <> are special tokens, which it
    never writes either."""
    extractor = {"preprocessor_config.json": _PREPROCESSOR}
    if front.get("in_channels", 1) > 1:  # of cepstra, which no feature extractor there computes
        extractor = {}
    if head is None or head.task != "ctc":
        return {}, extractor
    symbols = list(head.names or ())
    blank, others = symbols[0], [symbol for symbol in symbols[1:] if symbol.startswith("<") and symbol.endswith(">")]
    config = {
        "vocab_size": len(symbols),
        "pad_token_id": 0,
        "bos_token_id": symbols.index("<s>") if "<s>" in symbols else None,
        "eos_token_id": symbols.index("</s>") if "</s>" in symbols else None,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
    }
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": "Wav2Vec2Processor",
        "pad_token": blank,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": [name for name in others if name not in ("<s>", "</s>", "<unk>")],
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    for kind in ("unk_token", "bos_token", "eos_token"):
        if tokenizer[kind] not in others:
            tokenizer[kind] = blank
    for name in extractor:
        extractor[name] = {**_PREPROCESSOR, "processor_class": "Wav2Vec2Processor"}
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    return config, {**extractor, "vocab.json": vocabulary, "tokenizer_config.json": tokenizer}


SPEECH = Family(
    "data2vec-audio",
    speech.FRONT_END,
    "data2vec_audio.",
    _ROWS,
    {"hidden_act": "gelu", "feat_extract_activation": "gelu", "add_adapter": False, "conv_bias": False},
    read_speech_model,
    write_speech_model,
)
