"""Folders of Hugging Face transformers: ``Data2VecAudioModel`` and ``Data2VecAudioForCTC``, both data2vec 1.0."""

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from d2v.checkpoints import speech
from d2v.checkpoints.ctc_head import make_head
from d2v.checkpoints.fairseq_v1_audio import PUBLISHED, mask_token_is_zero, method
from d2v.checkpoints.layout import CTCHead, Imported, first_match, given, rename
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ENCODER_PARTS = (
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
_REFUSED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "add_adapter": False, "conv_bias": False}
_PREFIX = "data2vec_audio."


def matches(folder: Path) -> bool:
    """Whether a folder is one of transformers."""
    return (folder / CONFIG).is_file() and "model_type" in _read_json(folder / CONFIG)


def convert(folder: Path) -> tuple[Imported, Path]:
    """Translate a folder; returns the checkpoint and the file of its weights.

    How it was pretrained is not in it: the settings of the published Base run stand for that.

    Raises:
        UserError: It is a model of another kind, is not whole, or its weights cannot be read.
    """
    config = given(_read_json(folder / CONFIG))
    if config.get("model_type") != "data2vec-audio":
        raise UserError(
            f"a Hugging Face model of type {config.get('model_type')!r}: only data2vec-audio can be imported"
        )
    for key, value in _REFUSED.items():
        if config.get(key, value) != value:
            raise UserError(f"{CONFIG}: {key} is {config[key]!r}; d2v's encoder has {value} only")
    file, state = _weights(folder)
    state = {_canonical(key): value for key, value in state.items()}
    speech.refuse_foreign(state, layer_norm_in_extractor=True)

    notes = ["the settings of the pretraining are not in the folder: those of the published Base run are taken"]

    def student_name(key: str) -> str | None:
        name = first_match(key, _ENCODER_PARTS)
        return name and f"student.{name}"

    weights, left_out = rename(state, student_name)
    speech.join_qkv(weights)
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
    imported = Imported(
        layout="Hugging Face Data2VecAudio (data2vec 1.0)" + (", fine-tuned with CTC" if ctc else ""),
        licence="as its model card says (the published ones: Apache 2.0)",
        method=method(student, PUBLISHED, ["feature_extractor", "positions"], notes),
        ema={"start": 0.999, "end": 0.9999, "anneal_steps": PUBLISHED["ema_anneal_end_step"]},
        weights=weights,
        example=speech.example(width),
        sizes=speech.shown(student),
        ctc=ctc,
        left_out=left_out,
        notes=notes,
    )
    return imported, file


def _canonical(key: str) -> str:
    return key.removeprefix(_PREFIX)


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
    vocabulary = _read_json(folder / "vocab.json") if (folder / "vocab.json").is_file() else None
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


def _symbol(symbol: str) -> str:
    """Ours are in <> if they are never written, and | is the word boundary."""
    return re.sub(r"^\[([A-Z]+)\]$", lambda name: f"<{name[1].lower()}>", symbol) if symbol != " " else "|"


def _weights(folder: Path) -> tuple[Path, dict[str, Any]]:
    for name in _WEIGHTS:
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix != ".safetensors":
            return file, load_untrusted(file)
        try:
            return file, dict(load_file(file))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{name}: not readable ({error})") from error
    if (folder / "model.safetensors.index.json").is_file():
        raise UserError(
            "its weights are in several files; save it in one: model.save_pretrained(FOLDER, max_shard_size='99GB')"
        )
    raise UserError(f"holds neither {' nor '.join(_WEIGHTS)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name}: not readable ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name}: holds a {type(value).__name__}, where an object belongs")
    return value
