"""Our vision encoder as ``Data2VecVisionModel``, with a head as ``ForImageClassification``."""

from typing import Any

import torch

from d2v.checkpoints.export.source import ExportSource
from d2v.checkpoints.layout import ImportedClassifier, StateDict
from d2v.data.normalisation import ASSET, IMAGENET, read_normalisation
from d2v.model.encoder import Encoder
from d2v.official.hugging_face.terms import Official, class_settings, refused

_BICUBIC = 3


def translate(source: ExportSource, encoder: Encoder, weights: StateDict) -> Official:
    """The model, not yet under official names; or what does not fit."""
    init = encoder.recipe["init_args"]
    height, width = init["image_size"] if isinstance(init["image_size"], list | tuple) else [init["image_size"]] * 2
    head = source.classifier
    mean = not init["output_norm"]  # use_mean_pooling: the norm comes after the mean
    problems = refused(
        (not init["norm_first"], "its blocks are post-norm (data2vec 2.0)"),
        (init["prenet_depth"] > 0, "it has prenet blocks (data2vec 2.0)"),
        (init["num_cls"] != 1, f"it has {init['num_cls']} CLS tokens, where one belongs"),
        (init["output_eps"] not in (None, init["eps"]), "its last norm has an eps of its own"),
        (
            height != width and (init["relative_bias"] is not None or init["positions"] is not None),
            "its pictures are not square, and transformers reads tables of positions as if they were",
        ),
        (head is not None and head.kind != "linear", "its classifier has a tanh"),
        *_pooling_problems(head, mean),
    )
    if problems:
        return Official(problems=problems)
    config: dict[str, Any] = {
        "architecture": "Data2VecVisionModel",
        "hidden_size": init["width"],
        "num_hidden_layers": init["depth"],
        "num_attention_heads": init["num_heads"],
        "intermediate_size": len(weights["transformer.blocks.0.mlp.0.bias"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": init["dropout"],
        "attention_probs_dropout_prob": init["attention_dropout"],
        "drop_path_rate": init["drop_path"],
        "layer_norm_eps": init["eps"],
        "image_size": init["image_size"],
        "patch_size": init["patch_size"],
        "num_channels": init["in_channels"],
        "use_mask_token": "masked_input.mask_token" in weights,
        "use_absolute_position_embeddings": "positions.table" in weights,
        "use_relative_position_bias": init["relative_bias"] == "per_block",
        "use_shared_relative_position_bias": init["relative_bias"] == "shared",
        "layer_scale_init_value": init["layer_scale"] or 0.0,
        "use_mean_pooling": mean,
        "out_indices": [init["depth"] - 1] * 4,  # of segmentation, which there checks them in any model
    }
    mean_pixel, std_pixel = read_normalisation(source.assets) or IMAGENET
    pixels = {"size": {"height": height, "width": width}, "image_mean": list(mean_pixel), "image_std": list(std_pixel)}
    files = {ASSET: {**_PREPROCESSOR, **pixels}}
    weights = _reshaped(weights)
    if head is None:
        return Official(config=config, weights=weights, files=files)
    config |= {"architecture": "Data2VecVisionForImageClassification", **class_settings(head)}
    parts = {"classifier": "proj", **({"data2vec_vision.pooler.layernorm": "norm"} if mean else {})}
    tensors = {
        f"{theirs}.{kind}": head.weights[f"{ours}.{kind}"]
        for theirs, ours in parts.items()
        for kind in ("weight", "bias")
    }
    return Official(config=config, weights=weights, head=tensors, files=files)


def _pooling_problems(head: ImportedClassifier | None, mean: bool) -> list[tuple[bool, str]]:
    if head is None:
        return []
    has_norm = "norm.weight" in head.weights
    if head.pool == "mean":
        return [
            (not has_norm, "its classifier reads the mean without a norm (model.norm)"),
            (not mean, "it has a norm before the mean (fine-tune with model.encoder_changes {output_norm: false})"),
        ]
    return [
        (has_norm, "its classifier has a norm behind that of the encoder (model.norm)"),
        (mean, "its classifier reads CLS without a norm"),
    ]


def _reshaped(weights: StateDict) -> StateDict:
    """Our tensors in the shapes of the official ones, the opposite of what the import does."""
    weights = dict(weights)
    weights["cls_token"] = weights["cls_token"][None]  # [1, D] -> [1, 1, D]
    if "masked_input.mask_token" in weights:
        weights["masked_input.mask_token"] = weights["masked_input.mask_token"][None, None]
    if "positions.table" in weights:
        table = weights.pop("positions.table")
        cls = weights.pop("positions.cls_table", table.new_zeros(1, table.shape[1]))
        weights["positions"] = torch.cat([cls, table])[None]  # [1, 1 + N, D]
    tables = weights.pop("attention_bias.table", None)
    if tables is not None and len(tables) == 1:
        weights["table.shared"] = tables[0]
    elif tables is not None:
        weights |= {f"table.{number}": table for number, table in enumerate(tables)}
    for name in [name for name in weights if name.endswith((".q_proj.bias", ".k_proj.bias", ".v_proj.bias"))]:
        bias = weights.pop(name)  # a bias of the keys adds the same to all scores of a query: the softmax has none
        block, _, part = name.removesuffix("_proj.bias").rpartition(".")
        if part != "k":
            weights[f"{block}.{'query' if part == 'q' else 'value'}_bias"] = bias
    return weights


_PREPROCESSOR = {
    "image_processor_type": "BeitImageProcessor",
    "do_resize": True,
    "resample": _BICUBIC,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_reduce_labels": False,
}
