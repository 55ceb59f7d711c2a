"""What the tensors of a speech encoder tell, whoever trained it, and the settings of its extractor."""

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.recipe import node
from d2v.data.filter_banks import CEPSTRA, SHIFT
from d2v.errors import UserError
from d2v.official.imported import Recipe
from d2v.official.names import count, tensor, trunk_sizes

FRONT_END = "d2v.modalities.speech.front_end.SpeechFrontEnd"
EXAMPLE = "encoder.embed(waveform)  # 16 kHz, zero mean and unit variance a clip: [B, samples] -> [B, {width}]"

_FOREIGN = (
    (r"conv_layers\.0\.(?:2|layer_norm)\.(?:weight|bias)$|pos_conv\w*\.(?:0|conv)\.(?:weight_[gv]|parametrizations)",
     "a wav2vec 2.0 or HuBERT model (group norm, or positions from one convolution with weight norm)"),
    (r"conv_layers\.\d+\.(?:0|conv)\.bias$", "an extractor whose convolutions have a bias (conv_bias)"),
    (r"\.(?:ffn1|ffn2|conv_module|depthwise_conv)\.", "Conformer blocks"),
    (r"(?:^|\.)adapter", "adapter layers"),
    (r"(?:^|\.)(?:quantizer|project_q)\.", "a wav2vec 2.0 model (it has a quantizer)"),
)  # fmt: skip
AQC = ("quantizer.", "project_q.", "contr_proj.")
"""Tensors of the contrastive loss beside data2vec's in data2vec-aqc (Speech-Lab-IITM, ``data2vec_audio.py``)."""
_CONVOLUTIONS = "student.front.feature_extractor.layers"
_MOST_LAYERS = 64
_WAV2VEC_STRIDES = [5, 2, 2, 2, 2, 2, 2]


def refuse_foreign(names: Iterable[str], layer_norm_in_extractor: bool = False) -> None:
    """Raise a UserError if names of tensors show a speech model that data2vec's encoder is not.

    Args:
        names: Official ones.
        layer_norm_in_extractor: The layout calls the extractor's layer norms as wav2vec 2.0 calls its group norm
            (Hugging Face), so that the name tells nothing.
    """
    names = list(names)
    for name in names:
        for pattern, what in _FOREIGN:
            if name.startswith(AQC) and AQC[-1] + "weight" in names:
                continue
            if re.search(pattern, name) and not (layer_norm_in_extractor and "conv_layers.0.layer_norm" in name):
                raise UserError(f"{what}, by its tensor {name}; d2v's encoder has no such thing")


def strides(setting: Any, name: str, weights: StateDict, notes: list[str]) -> list[int]:
    """Strides of the extractor's convolutions, which no tensor tells.

    Args:
        setting: Layers as fairseq writes them, ``"[(512, 10, 5)] + [(512, 3, 2)] * 4"``; None: not known.
        name: Of the setting, for messages.
        weights: With the student's tensors.
        notes: Extended if the setting contradicts the tensors, or is not there.

    Raises:
        UserError: The setting is no such list, or one of another number of layers.
    """
    kernels = _kernels(weights)
    if setting is None:
        if len(kernels) != len(_WAV2VEC_STRIDES):
            raise UserError(
                f"the checkpoint has no {name}: the strides of its {len(kernels)} convolutions are not known"
            )
        notes.append("the strides of the extractor are not in the file: those of every published model are taken")
        return _WAV2VEC_STRIDES
    layers = convolutions(setting, name)
    if len(layers) != len(kernels):
        raise UserError(f"{name} {setting!r:.200} has {len(layers)} layers, but the weights have {len(kernels)}")
    said, found = [], []
    for channels, kernel, stride in layers:
        said.append((channels, kernel))
        found.append(stride)
    if said != kernels:
        notes.append(f"{name} says (channels, kernel) {said}, the weights say {kernels}: taken from the weights")
    return found


def convolutions(setting: Any, name: str) -> list[list[int]]:
    """(channels, kernel, stride) of each layer, from fairseq's setting, which fairseq itself hands to ``eval``.

    Raises:
        UserError: It is anything but lists of three numbers each, added and repeated.
    """
    layers = setting
    if isinstance(setting, str):
        try:
            layers = _value(ast.parse(setting.strip()[:2000], mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            layers = None
    if not (isinstance(layers, Sequence) and layers and all(_is_layer(layer) for layer in layers)):
        raise UserError(f"{name} {setting!r:.200}: no list of (channels, kernel, stride) such as [(512, 10, 5)] * 2")
    return [list(layer) for layer in layers]


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            a, b = _value(left), _value(right)
            if isinstance(a, list) and isinstance(b, list) and len(a) + len(b) <= _MOST_LAYERS:
                return a + b
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = _value(left), _value(right)
            layers, times = (a, b) if isinstance(a, list) else (b, a)
            if isinstance(layers, list) and isinstance(times, int) and 0 < times * len(layers) <= _MOST_LAYERS:
                return layers * times
    raise ValueError(ast.dump(node)[:100])


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, Sequence) and len(layer) == 3 and all(type(n) is int and 0 < n < 2**20 for n in layer)


def _kernels(weights: StateDict) -> list[tuple[int, int]]:
    """(channels, kernel) of each convolution of the extractor."""
    kernels = []
    for number in range(count(weights, rf"{re.escape(_CONVOLUTIONS)}\.(\d+)\.conv\.weight")):
        name = f"{_CONVOLUTIONS}.{number}.conv.weight"
        channels, _, kernel = tensor(weights, name, dims=3).shape
        kernels.append((channels, kernel))
    return kernels


def student_recipe(weights: StateDict, strides: Sequence[int], **trunk: Any) -> Recipe:
    """Recipe of the student: what its tensors tell, and ``trunk``, arguments that the settings do.

    Raises:
        UserError: The extractor, the positions or the first block are not whole.
    """
    sizes = trunk_sizes(weights)
    width = sizes["width"]
    tensor(weights, "student.front.feature_extractor.proj.weight", dims=2)
    position = tensor(weights, "student.front.positions.layers.0.weight", dims=3)  # [D, D / groups, kernel]
    if 0 in position.shape or width % position.shape[1]:
        raise UserError(
            f"the checkpoint's positional convolution has the shape {list(position.shape)}, for width {width}"
        )
    in_channels = tensor(weights, f"{_CONVOLUTIONS}.0.conv.weight", dims=3).shape[1]
    if in_channels not in (1, CEPSTRA):
        raise UserError(f"the extractor reads {in_channels} values at once: d2v makes 1 (sound) or cepstra ({CEPSTRA})")
    extractor = []
    for (channels, kernel), stride in zip(_kernels(weights), strides, strict=True):
        extractor.append([channels, kernel, stride])
    front = node(
        FRONT_END,
        extractor=extractor,
        masked_input="replace" if "student.front.masked_input.mask_token" in weights else "drop",
        position_layers=count(weights, r"student\.front\.positions\.layers\.(\d+)\."),
        position_kernel=position.shape[2],
        position_groups=width // position.shape[1],
        alibi="student.front.attention_bias.scale" in weights,
        in_channels=in_channels,
        prenet_depth=count(weights, r"student\.front\.prenet\.(\d+)\."),
        num_cls=len(weights.get("student.front.cls_token", ())),
    )
    return {"front": front, "trunk": {**sizes, **trunk}}


def shown(front: dict[str, Any]) -> dict[str, Any]:
    """What is worth showing of a front end."""
    hop = 1 if front["in_channels"] == 1 else SHIFT
    for _, _, stride in front["extractor"]:
        hop *= stride
    return {"samples a frame": hop, "positions": f"{front['position_layers']} x kernel {front['position_kernel']}"}
