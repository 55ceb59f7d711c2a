"""``Data2VecVisionModel`` of Hugging Face transformers and its models with a head (1.0), read and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from d2v.checkpoints.folder import StateDict, any_begins
from d2v.checkpoints.head_files import StoredHead
from d2v.data.normalisation import ASSET, IMAGENET, read_normalisation
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.official import vision_tensors as vision
from d2v.official.beit import PUBLISHED, beit_method
from d2v.official.foreign_heads import take_classifier
from d2v.official.hugging_face import terms
from d2v.official.hugging_face.terms import Family, HuggingFaceModel
from d2v.official.imported import Imported
from d2v.official.names import by_rows, join_qkv, tensor, trunk_sizes
from d2v.text_files import read_text

_ATTENTION = r"^encoder\.layer\.(\d+)\.attention\.attention\."
_ROWS = (
    (r"^embeddings\.patch_embeddings\.projection\.", "front.feature_extractor.proj."),
    (r"^embeddings\.cls_token$", "front.cls_token"),
    (r"^embeddings\.mask_token$", "front.masked_input.mask_token"),
    (r"^embeddings\.position_embeddings$", "front.positions"),  # CLS and patches in one; split below
    (r"^encoder\.relative_position_bias\.relative_position_bias_table$", "table.shared"),
    (_ATTENTION + r"relative_position_bias\.relative_position_bias_table$", r"table.\1"),
    (_ATTENTION + r"query\.weight$", r"trunk.blocks.\1.attention.q_proj.weight"),
    (_ATTENTION + r"key\.weight$", r"trunk.blocks.\1.attention.k_proj.weight"),
    (_ATTENTION + r"value\.weight$", r"trunk.blocks.\1.attention.v_proj.weight"),
    (_ATTENTION + r"(query|value)\.bias$", r"trunk.blocks.\1.attention.\2_bias"),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"trunk.blocks.\1.attention.proj."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"trunk.blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"trunk.blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"trunk.blocks.\1.mlp.0."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"trunk.blocks.\1.mlp.2."),
    (r"^encoder\.layer\.(\d+)\.lambda_([12])$", r"trunk.blocks.\1.scale\2.gamma"),
    (r"^layernorm\.", "trunk.output_norm."),
)
_SETTINGS: terms.Settings = (
    ("num_attention_heads", "num_heads", 12),
    ("layer_norm_eps", "eps", 1e-12),
    ("hidden_dropout_prob", "dropout", 0.0),
    ("attention_probs_dropout_prob", "attention_dropout", 0.0),
    ("drop_path_rate", "drop_path", 0.1),
)
_SEGMENTATION = ("decode_head.", "auxiliary_head.", "fpn1.", "fpn2.")
_NORM = "pooler.layernorm"
_BICUBIC = 3
_PREPROCESSOR = {
    "image_processor_type": "BeitImageProcessor", "do_resize": True, "resample": _BICUBIC, "do_center_crop": False,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_reduce_labels": False,
}  # fmt: skip


def read_vision_model(folder: Path, config: dict[str, Any], state: dict[str, Any]) -> Imported:
    """Translate a folder. How it was pretrained is not in it: the settings of the published Base run stand for that.

    Args:
        folder: With ``preprocessor_config.json``, if it says how pixels are normalised.
        config: Content of ``config.json``.
        state: Its tensors.

    Raises:
        UserError: It is not whole.
    """
    found = Imported(vision.without_index(state), config)
    weights, notes = found.weights, found.notes
    notes.append("the settings of the pretraining are not in the folder: those of the published Base run are taken")
    found.rename(by_rows(_ROWS, "student."))
    join_qkv(weights)
    vision.reshape_v1(weights, "student.")
    _add_up_tables(weights)
    vision.add_unused(found)
    patch_size = vision.patch_sizes(weights)["patch_size"]
    grid = vision.find_grid(weights, _window(config, patch_size), patch_size)
    trunk = terms.read_settings(config, _SETTINGS)
    student = vision.v1_student(weights, grid, **trunk, layer_scale=config.get("layer_scale_init_value", 0.1))
    classes = terms.read_class_settings(config, state, "classifier.bias")
    if "output_norm" in student["trunk"]:  # use_mean_pooling: the norm comes after the mean
        notes.append("use_mean_pooling: the encoder ends without a norm, and so do its features; a classifier has one")
        layers = {"norm": _NORM, "proj": "classifier"}
        take_classifier(found, layers, pool="mean", eps=float(trunk["eps"]), **classes)
    else:
        take_classifier(found, {"proj": "classifier"}, pool="cls", **classes)
    found.assets = _normalisation(folder, notes)
    return found.finish(
        "Hugging Face Data2VecVision (data2vec 1.0)" + _kind(found.state),
        "as its model card says (the published ones: Apache 2.0 there, CC-BY-NC 4.0 at their source)",
        beit_method(student, PUBLISHED, grid, notes),
        {"start": 0.9998, "end": 0.9998, "anneal": 0},
    )


def _normalisation(folder: Path, notes: list[str]) -> dict[str, str]:
    """The asset that says how pixels are normalised, if the folder does; else a note."""
    try:
        found = read_normalisation({ASSET: read_text(folder / ASSET)})
    except UserError:
        found = None
    if found is None:
        notes.append(f"no {ASSET} says how pixels are normalised: by ImageNet's mean and deviation")
        return {}
    return {ASSET: found.to_asset()}


def _add_up_tables(weights: StateDict) -> None:
    """Make one table of the biases of relative position, which add up where a model has both one for all blocks and one
    a block. In place."""
    shared = weights.pop("student.table.shared", None)
    own = vision.pop_numbered(weights, "student.table.")
    if own:
        if len(own) != trunk_sizes(weights)["depth"]:
            raise UserError("of the relative_position_bias_table of the blocks one is missing")
        table = torch.stack(own)  # [L, offsets + 3, H]
        if shared is not None:
            if shared.shape != own[0].shape:
                raise UserError("the relative_position_bias_table of the blocks and of all of them differ in shape")
            table = table + shared
    elif shared is not None:
        table = shared[None]  # [1, offsets + 3, H]
    else:
        return
    weights["student.front.attention_bias.table"] = table
    tensor(weights, "student.front.attention_bias.table", dims=3)


def _window(config: dict[str, Any], patch_size: int) -> tuple[int, int] | None:
    """(rows, columns) of patches that ``image_size`` says."""
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return height // patch_size, width // patch_size


def _kind(state: dict[str, Any]) -> str:
    if any_begins(state, *_SEGMENTATION):
        return ", fine-tuned for segmentation"
    if "classifier.weight" in state:
        return ", fine-tuned"
    return ""


def write_vision_model(
    encoder: Encoder, weights: StateDict, head: StoredHead | None, assets: Mapping[str, str]
) -> HuggingFaceModel:
    """Our encoder as ``Data2VecVisionModel``, with a head as ``ForImageClassification``."""
    front, trunk = encoder.recipe["front"]["init_args"], encoder.recipe["trunk"]
    size = front["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    has_tables = front["relative_bias"] is not None or front["positions"] is not None
    mean = not trunk["output_norm"]  # use_mean_pooling: the norm comes after the mean
    problems = terms.refused(
        (not trunk["norm_first"], "its blocks are post-norm (data2vec 2.0)"),
        (front["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (front["num_cls"] != 1, f"it has {front['num_cls']} CLS tokens, where one belongs"),
        (trunk["output_eps"] not in (None, trunk["eps"]), "its last norm has an eps of its own"),
        (
            height != width and has_tables,
            "its pictures are not square, and transformers reads tables of positions as if they were",
        ),
        *_head_problems(head, mean),
    )
    if problems:
        return HuggingFaceModel(problems=problems)
    config: dict[str, Any] = {
        **terms.written_settings(trunk, weights, _SETTINGS),
        "image_size": size,
        "patch_size": front["patch_size"],
        "num_channels": front["in_channels"],
        "use_mask_token": "front.masked_input.mask_token" in weights,
        "use_absolute_position_embeddings": "front.positions.table" in weights,
        "use_relative_position_bias": front["relative_bias"] == "per_block",
        "use_shared_relative_position_bias": front["relative_bias"] == "shared",
        "layer_scale_init_value": trunk["layer_scale"] or 0.0,
        "use_mean_pooling": mean,
        "out_indices": [trunk["depth"] - 1] * 4,  # of segmentation, which there checks them in any model
    }
    _, files = picture_files(front, head, assets)
    weights = _official_shapes(weights)
    if head is None:
        return HuggingFaceModel("Data2VecVisionModel", config, weights, files=files)
    layers = {"proj": "classifier"}
    if mean:
        layers["norm"] = f"data2vec_vision.{_NORM}"
    tensors = terms.head_tensors(head, layers)
    config |= terms.class_settings(head)
    return HuggingFaceModel("Data2VecVisionForImageClassification", config, weights, head=tensors, files=files)


def picture_files(
    front: Mapping[str, Any], head: StoredHead | None, assets: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """See ``own_class.py``."""
    pixels, size = read_normalisation(assets) or IMAGENET, front["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    preprocessor = {**_PREPROCESSOR, "size": {"height": height, "width": width}}
    preprocessor |= {"image_mean": list(pixels.mean), "image_std": list(pixels.std)}
    return {}, {ASSET: preprocessor}


def _head_problems(head: StoredHead | None, mean: bool) -> list[tuple[bool, str]]:
    if head is None:
        return []
    tanh = (head.kind != "linear", "its classifier has a tanh")
    if head.pool == "mean":
        return [
            tanh,
            (not head.has_norm, "its classifier reads the mean without a norm (model.norm)"),
            (not mean, "it has a norm before the mean (fine-tune with model.encoder_changes {output_norm: false})"),
        ]
    return [
        tanh,
        (head.has_norm, "its classifier has a norm behind that of the encoder (model.norm)"),
        (mean, "its classifier reads CLS without a norm"),
    ]


def _official_shapes(weights: StateDict) -> StateDict:
    """Our tensors in the shapes of the official ones, the opposite of what the import does."""
    weights = dict(weights)
    weights["front.cls_token"] = weights["front.cls_token"][None]  # [1, D] -> [1, 1, D]
    if "front.masked_input.mask_token" in weights:
        weights["front.masked_input.mask_token"] = weights["front.masked_input.mask_token"][None, None]
    if "front.positions.table" in weights:
        table = weights.pop("front.positions.table")
        cls = weights.pop("front.positions.cls_table", table.new_zeros(1, table.shape[1]))
        weights["front.positions"] = torch.cat([cls, table])[None]  # [1, 1 + N, D]
    tables = weights.pop("front.attention_bias.table", ())
    for number, table in enumerate(tables):
        weights["table.shared" if len(tables) == 1 else f"table.{number}"] = table
    for name in list(weights):
        if name.endswith((".q_proj.bias", ".k_proj.bias", ".v_proj.bias")):
            # A bias of the keys adds the same to all scores of a query: the softmax has none.
            bias = weights.pop(name)
            block, _, part = name.removesuffix("_proj.bias").rpartition(".")
            if part != "k":
                weights[f"{block}.{'query' if part == 'q' else 'value'}_bias"] = bias
    return weights


VISION = Family(
    "data2vec-vision",
    vision.FRONT_END,
    "data2vec_vision.",
    _ROWS,
    {"hidden_act": "gelu"},
    read_vision_model,
    write_vision_model,
)
