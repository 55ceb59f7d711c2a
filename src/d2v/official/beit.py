"""Checkpoints of data2vec_vision (BEiT's code): the published data2vec 1.0 vision, pretrained and fine-tuned."""

import re
from typing import Any

from d2v.checkpoints.recipe import node
from d2v.data.normalisation import ASSET, IMAGENET, Normalisation
from d2v.official import published
from d2v.official import vision_tensors as vision
from d2v.official.imported import Imported, Recipe, method_recipe, one_norm
from d2v.official.names import given, model_state, tensor

PUBLISHED = {
    "num_mask_patches": 120,
    "max_mask_patches_per_block": 196,
    "post_target_layer_norm": True,
    "attn_drop_rate": 0.05,
    "drop_path": 0.25,
    "l1_beta": 2.0,
    "layer_scale_init_value": 1e-4,
}
"""What the published Base run sets and the code's defaults do not (data2vec_vision/beit/README.md)."""
_INCEPTION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # unless --imagenet_default_mean_and_std (datasets.py)
_LOST = ("var_w0", "mask_dropout_prob")  # parts of the loss and the masking that are off in every published run


def read_beit(content: dict[str, Any]) -> Imported:
    """Translate a checkpoint: a dict with ``model`` (DeepSpeed: ``module``), or the bare state dict.

    Fine-tuned and bare checkpoints do not say how they were pretrained: the published Base run stands in for that.

    Raises:
        UserError: The checkpoint is not whole.
    """
    args = given(content.get("args"))
    found = Imported(model_state(content), args)
    weights, notes = found.weights, found.notes
    uses_imagenet = args.get("imagenet_default_mean_and_std")
    if uses_imagenet is not None:
        found.assets[ASSET] = (IMAGENET if uses_imagenet else _INCEPTION).to_asset()
    pretrained = {"target_layers", "num_mask_patches"} <= args.keys()
    if not pretrained:
        known: dict[str, Any] = {key: args[key] for key in ("window_size", "layer_scale_init_value") if key in args}
        args = {**PUBLISHED, **known}
        notes.append("the settings of the pretraining are not in the file: those of the published Base run are taken")

    student, left_out = vision.v1_weights(found.state, "student.")
    weights |= student
    for name in left_out:
        if name in ("lm_head.weight", "lm_head.bias"):
            weights[name.replace("lm_head.", "task.head.proj.")] = found.state[name].float()
        else:
            found.left_out.append(name)
    if isinstance(content.get("model_ema"), dict):
        teacher, left_out_ema = vision.v1_weights(model_state({"model": content["model_ema"]}), "teacher.encoder.")
        weights |= teacher
        found.leave_out(left_out_ema, "model_ema.")
        vision.add_unused(found, "teacher.encoder.")
    grid = vision.find_grid(weights, args.get("window_size"), vision.patch_sizes(weights)["patch_size"])
    if not vision.ends_without_norm(found.state):
        tensor(weights, "student.trunk.output_norm.weight", dims=1)
    trunk = {
        "layer_scale": args.get("layer_scale_init_value", 1e-4),
        "attention_dropout": args.get("attn_drop_rate", 0.0),
        "drop_path": args.get("drop_path", 0.0),
    }
    recipe = vision.v1_student(weights, grid, vision.v1_num_heads(weights, notes), **trunk)
    vision.add_unused(found)
    if pretrained:
        notes += published.differences(args, "v1_vision", found.width)
    vision.take_beit_classifier(found)
    start, end = args.get("ema_decay_init", 0.999), args.get("ema_decay", 0.9998)
    return found.finish(
        "data2vec_vision (BEiT) data2vec 1.0 vision" + _state_of(found.state),
        "CC-BY-NC 4.0 if these are the published weights",
        beit_method(recipe, args, grid, notes),
        {"start": start, "end": end, "anneal": args.get("ema_start_at", 0)},
    )


def beit_method(student: Recipe, args: dict[str, Any], grid: vision.Grid, notes: list[str]) -> Recipe:
    """The recipe of 1.0's method on pictures around a student, by BEiT's settings."""
    masking = vision.block_masking(args, grid, notes)
    targets = _targets(args, student["trunk"]["depth"], notes)
    head = node("d2v.model.heads.LinearHead", weight_init="beit")
    return method_recipe(student, masking, targets, head, _loss(args, notes), shared=[])


def _state_of(state: dict[str, Any]) -> str:
    if "lm_head.weight" in state:
        return ""
    if "head.weight" in state:
        return ", fine-tuned"
    return ", without its head"


def _block_numbers(layers: Any) -> list[int]:
    """A list of block numbers, which BEiT's command line takes and stores as a string."""
    if isinstance(layers, str):
        return [int(number) for number in re.findall(r"-?\d+", layers)]
    return list(layers or ())


def _targets(args: dict[str, Any], depth: int, notes: list[str]) -> Recipe:
    layers = _block_numbers(args.get("target_layers")) or list(range(depth - depth // 2, depth))
    if sorted(number % depth for number in layers) != list(range(depth - len(layers), depth)):
        notes.append(f"target_layers {layers} are not the last of {depth} blocks: the last {len(layers)} are averaged")
    norms = {
        "instance": args.get("target_instance_norm"),
        "layer": not args.get("no_target_layer_norm_last"),
        "batch": args.get("target_batch_norm"),
    }
    norms_after = {"instance": args.get("post_target_instance_norm"), "layer": args.get("post_target_layer_norm")}
    return node(
        "d2v.model.targets.TopKTargets",
        top_k=min(max(1, len(layers)), depth),
        source="ffn" if args.get("layer_results") == "fc" else "end",
        layer_norm=one_norm(norms, "of each target layer", notes),
        mean_norm=one_norm(norms_after, "of the mean target", notes),
    )


def _loss(args: dict[str, Any], notes: list[str]) -> Recipe:
    if args.get("loss_scale", -1) not in (-1, 1):
        notes.append(f"loss_scale {args['loss_scale']} is not kept: scale the learning rate and the clipping instead")
    for key in _LOST:
        if args.get(key, -1) > 0:
            notes.append(f"{key} is {args[key]}: d2v has no such thing")
    if args.get("l2_loss"):
        return node("d2v.model.losses.RegressionLoss", kind="mse", reduction="mean")
    return node("d2v.model.losses.RegressionLoss", kind="smooth_l1", beta=args.get("l1_beta", 2.0), reduction="mean")
