"""``Data2VecAudioModel`` of Hugging Face transformers and its models with a head, all data2vec 1.0."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.checkpoints.classifier_head import take_head
from d2v.checkpoints.ctc_head import make_head
from d2v.checkpoints.layout import CTCHead, Imported, ImportedClassifier, first_match, join_qkv, rename
from d2v.errors import UserError
from d2v.official import speech
from d2v.official.fairseq.v1_speech import PUBLISHED, mask_token_is_zero, method
from d2v.official.hugging_face.classes import class_names, task
from d2v.official.hugging_face.files import CONFIG, read_json

MODEL_TYPE = "data2vec-audio"
WANTED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "add_adapter": False, "conv_bias": False}
"""The only values of these settings that d2v's encoder has."""

ENCODER_PARTS = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"feature_extractor.layers.\1.norm."),
    (r"^feature_projection\.layer_norm\.", "feature_extractor.norm."),
    (r"^feature_projection\.projection\.", "feature_extractor.proj."),
    (r"^masked_spec_embed$", "masked_input.mask_token"),
    (r"^encoder\.pos_conv_embed\.layers\.(\d+)\.conv\.", r"positions.layers.\1."),
    (r"^encoder\.layer_norm\.", "transformer.input_norm."),
    (r"^encoder\.layers\.(\d+)\.attention\.([qkv])_proj\.", r"transformer.blocks.\1.attention.\2_proj."),
    (r"^encoder\.layers\.(\d+)\.attention\.out_proj\.", r"transformer.blocks.\1.attention.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm\.", r"transformer.blocks.\1.norm1."),
    (r"^encoder\.layers\.(\d+)\.final_layer_norm\.", r"transformer.blocks.\1.norm2."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"transformer.blocks.\1.mlp.0."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.output_dense\.", r"transformer.blocks.\1.mlp.2."),
)
PREFIX = "data2vec_audio."


def convert(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: With ``vocab.json``, if it is a recogniser.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    speech.refuse_foreign(state, layer_norm_in_extractor=True)

    notes = ["the settings of the pretraining are not in the folder: those of the published Base run are taken"]

    weights, left_out = rename(state, lambda key: first_match(key, ENCODER_PARTS), "student.")
    join_qkv(weights)
    mask_token_is_zero(weights, notes)
    ctc = _ctc_head(folder, state, config, left_out, notes)
    eps = config.get("layer_norm_eps", 1e-5)
    if eps != 1e-5:
        notes.append(
            f"layer_norm_eps is {eps}: d2v takes it for the Transformer, and 1e-5 for the extractor's last norm"
        )
    student = speech.student(
        weights,
        speech.strides(_convolutions(config), "conv_dim, conv_kernel and conv_stride", weights, notes),
        num_heads=config.get("num_attention_heads", 12),
        eps=eps,
        dropout=config.get("hidden_dropout", 0.1),
        attention_dropout=config.get("attention_dropout", 0.1),
        activation_dropout=config.get("activation_dropout", 0.1),
        layer_drop=config.get("layerdrop", 0.1),
    )
    width = student["init_args"]["width"]
    classifier = _classifier(state, config, width, left_out, notes)
    kind = ", fine-tuned with CTC" if ctc else ", fine-tuned" if classifier else ""
    return Imported(
        layout=f"Hugging Face Data2VecAudio (data2vec 1.0){kind}",
        licence="as its model card says (the published ones: Apache 2.0)",
        method=method(student, PUBLISHED, ["feature_extractor", "positions"], notes),
        ema={"start": 0.999, "end": 0.9999, "anneal_steps": PUBLISHED["ema_anneal_end_step"]},
        weights=weights,
        example=speech.example(width),
        sizes=speech.shown(student),
        ctc=ctc,
        classifier=classifier,
        left_out=left_out,
        notes=notes,
    )


def _convolutions(config: dict[str, Any]) -> Any:
    """The extractor's layers; None if the file does not name them."""
    columns = [config.get(key) for key in ("conv_dim", "conv_kernel", "conv_stride")]
    if not all(isinstance(column, list) for column in columns):
        return None
    return [list(layer) for layer in zip(*columns, strict=False)]


def _ctc_head(
    folder: Path, state: dict[str, Any], config: dict[str, Any], left_out: list[str], notes: list[str]
) -> CTCHead | None:
    """The head with its symbols by ``vocab.json``; transformers' blank, the pad token, is put first, as ours is."""
    names = ["lm_head.weight", "lm_head.bias"]
    if not any(name in state for name in names):
        return None
    head = make_head(state.get(names[0]), state.get(names[1]), names, left_out, notes)
    vocabulary = read_json(folder / "vocab.json") if (folder / "vocab.json").is_file() else None
    if head is None or vocabulary is None:
        return head
    symbols = {number: _symbol(symbol) for symbol, number in vocabulary.items()}
    outputs, blank = len(head.weight), config.get("pad_token_id") or 0
    if sorted(symbols, key=str) != sorted(range(outputs), key=str):
        raise UserError(f"vocab.json: its {len(symbols)} symbols do not number the {outputs} outputs of lm_head")
    if blank not in symbols:
        raise UserError(f"{CONFIG}: pad_token_id is {blank!r}, and vocab.json has no such symbol")
    order = [blank, *(number for number in range(outputs) if number != blank)]
    return CTCHead(head.weight[order], head.bias[order], tuple(symbols[number] for number in order))


def _classifier(
    state: dict[str, Any], config: dict[str, Any], width: int, left_out: list[str], notes: list[str]
) -> ImportedClassifier | None:
    """The head of ``Data2VecAudioForSequenceClassification``: two linear layers around a mean over time, with nothing
    between them, which are one linear layer behind the mean. Heads for frames and for speakers are none of ours."""
    layers = ("projector.weight", "projector.bias", "classifier.weight", "classifier.bias")
    tensors = [state.get(name) for name in layers]
    if not any(isinstance(value, Tensor) for value in tensors[:2]) or "classifier.weight" not in state:
        return None
    if "tdnn.0.kernel.weight" in state or "objective.weight" in state:
        return None
    if "layer_weights" in state:
        notes.append("the classifier is left out: it reads a weighted sum of all layers (use_weighted_layer_sum)")
        return None
    inner, inner_bias, outer, outer_bias = (value.double() if isinstance(value, Tensor) else None for value in tensors)
    if (
        inner is None or inner_bias is None or outer is None or outer_bias is None
        or inner.shape != (len(inner_bias), width) or outer.shape != (len(outer_bias), len(inner_bias))
    ):  # fmt: skip
        notes.append(f"the classifier ({', '.join(layers)}) is not whole and is left out")
        return None
    left_out[:] = [name for name in left_out if not name.startswith("projector.")]
    outputs = len(outer_bias)
    joined = {"classifier.weight": outer @ inner, "classifier.bias": outer @ inner_bias + outer_bias}
    notes.append("its projector and classifier, two linear layers with nothing between them, are one here")
    return take_head(
        joined,
        {"proj": "classifier"},
        width=width,
        pool="mean",
        left_out=left_out,
        notes=notes,
        names=class_names(config, outputs),
        task=task(config),
    )


def _symbol(symbol: str) -> str:
    """Ours are in <> if they are never written, and | is the word boundary."""
    return re.sub(r"^\[([A-Z]+)\]$", lambda name: f"<{name[1].lower()}>", symbol) if symbol != " " else "|"
