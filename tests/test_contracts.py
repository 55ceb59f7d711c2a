"""What every shipped recipe must hold, found by glob: a new config is tested without an edit here.

An overlay is tested on the config that the command in its header names before it.
"""

import copy
import importlib
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from encoders import step
from torch import Tensor

from d2v.checkpoints import recipe
from d2v.configs import SHIPPED
from d2v.model.data2vec import Data2Vec
from d2v.model.front_end import FrontEnd
from d2v.nn.transformer import Transformer
from d2v.training.optimizer import parameter_groups
from d2v.types import Batch

MODULE = "d2v.training.module.Pretraining"
GRID = 6
STEPS = 180
# An overlay with these keys alone is another run of a model that is tested (training/test_published_settings.py).
OF_THE_RUN = {"optimizer", "schedule", "ema", "init_from", "init_teacher", "weight_decay_on"}
# Parameters that get no gradient by design: (config, name) -> why. None so far.
WITHOUT_GRADIENT: dict[tuple[str, str], str] = {}


def merge(base: Any, overlay: Any) -> Any:
    """As LightningCLI stacks configs: dicts merge, everything else replaces; so does a part of another class."""
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return overlay
    if overlay.get("class_path", base.get("class_path")) != base.get("class_path"):
        return overlay
    return {**base, **{key: merge(base.get(key), value) for key, value in overlay.items()}}


def recipes() -> dict[str, list[Path]]:
    """Each pretraining recipe: the files to stack."""
    found = {}
    for path in sorted(SHIPPED.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict) or "model" not in content:
            continue
        name = path.relative_to(SHIPPED).as_posix()
        class_path = content["model"].get("class_path")
        if class_path == MODULE:
            found[name] = [path]
        elif class_path is None:  # an overlay
            command = next((line for line in path.read_text().splitlines() if f"--config {name}" in line), None)
            assert command, f"{name}: its header must show the command with its base before it"
            stack = re.findall(r"--config (\S+)", command)
            stack = [SHIPPED / part for part in stack[: stack.index(name) + 1]]
            another_run = content["model"]["init_args"].keys() <= OF_THE_RUN
            if yaml.safe_load(stack[0].read_text())["model"]["class_path"] == MODULE and not another_run:
                found[name] = stack
    return found


RECIPES = recipes()


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for path in RECIPES[name]:
        config = merge(config, yaml.safe_load(path.read_text()))
    return typed(config)


def typed(value: Any) -> Any:
    """YAML has no tuples; every sequence in the arguments of our parts is one, and LightningCLI makes it one."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return tuple(typed(item) for item in value) if isinstance(value, list) else value


def shrink(args: dict[str, Any]) -> dict[str, Any]:
    """The same structure at a fraction of the size: every part and every option stays."""
    args = copy.deepcopy(args)
    front, trunk = args["student"]["front"]["init_args"], args["student"]["trunk"]
    old_depth = trunk["depth"]
    trunk.update(width=32, depth=2, num_heads=4)
    if front.get("prenet_depth"):
        front["prenet_depth"] = 1
    if "image_size" in front:
        front.update(image_size=4 * GRID, patch_size=4)
    if "max_frames" in front:
        front.update(max_frames=8 * GRID, mel_bins=4 * GRID, patch_size=4)
    if "extractor" in (names := inspect.signature(front_class(args)).parameters):
        front.update(extractor=((12, 10, 5), (12, 3, 2), (12, 2, 2)), position_layers=2, position_groups=4)
    if "vocab_size" in names:
        front["vocab_size"] = 60
    assert set(front) <= set(names)
    assert set(trunk) <= set(inspect.signature(Transformer).parameters)
    args["targets"]["init_args"]["top_k"] = max(1, round(args["targets"]["init_args"]["top_k"] * 2 / old_depth))
    head = args["head"].get("init_args", {})
    if "decoder_width" in head:
        head.update(decoder_width=24, num_layers=min(head["num_layers"], 2), groups=4)
    masking = args["masking"]["init_args"]
    if "num_patches" in masking:
        share = masking["num_patches"] / math.prod(masking["grid"])
        masking.update(num_patches=round(share * GRID**2), grid=(GRID, GRID), min_block=3)
    if "span" in masking:
        masking["span"] = min(masking["span"], 4)
    args["num_masks"] = min(args.get("num_masks", 1), 2)
    return args


def front_class(args: dict[str, Any]) -> type[FrontEnd]:
    module, _, name = args["student"]["front"]["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def build_method(args: dict[str, Any]) -> Data2Vec:
    return recipe.build_method({"num_masks": 1, "shared_with_teacher": [], **args})


def build_other(node: dict[str, Any], *positional: Any) -> Any:
    """A part that is no module: the optimizer or a schedule."""
    module, _, name = node["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(*positional, **node.get("init_args", {}))


def example_batch(args: dict[str, Any]) -> Batch:
    """Random samples of the recipe's modality, which the arguments of its encoder show."""
    front = args["student"]["front"]["init_args"]
    generator = torch.Generator().manual_seed(0)
    padding_mask = None
    if "image_size" in front:
        inputs = torch.randn(
            4, front.get("in_channels", 3), front["image_size"], front["image_size"], generator=generator
        )
    elif "max_frames" in front:
        inputs = torch.randn(4, 1, 4 * GRID, 4 * GRID, generator=generator)
    elif "extractor" in front:
        inputs = torch.randn(4, 760, generator=generator)
        padding_mask = torch.zeros(4, 760, dtype=torch.bool)
        padding_mask[3, 600:] = True
        inputs[padding_mask] = 0
    elif "vocab_size" in front:
        inputs = torch.randint(4, front["vocab_size"] - 1, (4, 20), generator=generator)
        padding_mask = torch.zeros(4, 20, dtype=torch.bool)
        padding_mask[3, 16:] = True
    else:
        pytest.fail(f"no example for {args['student']['front']['class_path']}: add one here")
    return Batch(inputs, torch.arange(4), torch.zeros(4, dtype=torch.long), padding_mask=padding_mask)


@pytest.fixture(params=RECIPES)
def name(request) -> str:
    return request.param


@pytest.fixture
def small(name) -> tuple[Data2Vec, Batch, dict[str, Any]]:
    torch.manual_seed(0)
    args = shrink(load(name)["model"]["init_args"])
    return build_method(args).train(), example_batch(args), args


def test_recipes_were_found():
    assert {"vision.yaml", "v2/vision.yaml", "sizes/large.yaml", "v2/sizes/large.yaml"} <= set(RECIPES)
    assert {"speech.yaml", "v2/speech.yaml", "v2/sizes/speech_large.yaml"} <= set(RECIPES)
    assert {"text.yaml", "text_bert_masking.yaml", "v2/text.yaml", "v2/sizes/text_large.yaml"} <= set(RECIPES)
    assert load("v2/sizes/large.yaml")["model"]["init_args"]["student"]["front"]["init_args"]["positions"] == "sincos"


def test_loss_is_finite_and_gradients_reach_the_student_and_not_the_teacher(name, small):
    method, batch, args = small
    # Stochastic depth and LayerDrop leave whole branches out, and a gradient may then be zero by chance.
    for module in method.student.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if hasattr(module, "layer_drop"):
            module.layer_drop = 0.0
    output = step(method, batch)
    assert output.loss.isfinite()
    assert output.loss.ndim == 0
    assert (output.cls_loss is not None) == bool(args.get("cls_loss"))
    for values in (output.predictions, output.targets, output.features.tokens):
        assert values.isfinite().all()
        assert values.std() > 1e-3
    output.loss.backward()
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert any(n.startswith("student.") for n in trained)
    assert not any(n.startswith("teacher.") for n in trained)
    for parameter_name, parameter in trained.items():
        if (name, parameter_name) in WITHOUT_GRADIENT:
            continue
        assert parameter.grad is not None, f"{parameter_name}: plain DDP would stop here"
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
    assert all(p.grad is None for p in method.teacher.parameters())


def test_one_batch_can_be_overfitted(small):
    method, batch, args = small
    # Weights that start at half the deviation, and branches that start at 1e-4, need more steps.
    steps = 300 if args["student"]["trunk"].get("weight_init") == "beit" else STEPS
    for module in method.modules():  # what is random on purpose is off
        if hasattr(module, "p"):
            module.p = 0.0
        for name in ("dropout", "layer_drop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2, betas=(0.9, 0.95))
    features = method.student.extract(batch.inputs, batch.padding_mask)
    mask = method.task.masking(batch, features.grid, method.task.num_masks, 0, features.padding_mask)
    method.task.masking.forward = lambda *_: mask  # it would be the same each time: one saves the time
    first = loss = step(method, batch).loss.item()
    for _ in range(steps):
        optimizer.zero_grad()
        output = step(method, batch)
        output.loss.backward()
        optimizer.step()
        loss = output.loss.item()
        if loss < first / 4:
            break
    assert loss < first / 4


def test_real_steps_stay_finite_and_move_student_and_teacher(name, small):
    method, batch, args = small
    config = load(name)
    optimizer = build_other(args["optimizer"], parameter_groups(method))
    schedule = build_other(args["schedule"])
    ema = importlib.import_module("d2v.training.schedules").EMADecay(**args["ema"])
    total = 1000  # what `length: auto` means at least
    if "length" not in config:
        total = config["trainer"]["max_steps"]
    peak = args["optimizer"]["init_args"]["lr"]
    before = {n: v.clone() for n, v in method.state_dict().items()}
    warm = schedule.warmup_steps(total)
    assert 0 < warm < total
    assert schedule.factor(warm, total) == 1
    assert schedule.factor(total, total) < 0.02
    for number in range(4):  # at the peak of the learning rate, where a run would diverge
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.factor(warm + number, total)
        loss = step(method, batch).loss
        loss.backward()
        if clip := config["trainer"].get("gradient_clip_val"):
            torch.nn.utils.clip_grad_norm_(method.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        method.teacher.update(method.student, ema.at(number + 1, total))
        assert loss.isfinite()
    moved: dict[str, Tensor] = {n: (v - before[n]).abs().max() for n, v in method.state_dict().items()}
    assert all(v.isfinite() for v in moved.values())
    for part in ("student.trunk.", "task.head.", "teacher.encoder.trunk."):
        changes = [v for n, v in moved.items() if n.startswith(part) and n.endswith("weight") and "norm" not in n]
        assert (changes and min(changes) > 0) or (part == "task.head." and not changes), part


def test_the_full_size_builds_and_its_masks_fit(name):
    config = load(name)
    args = config["model"]["init_args"]
    with torch.device("meta"):
        method = build_method(args)
    assert all(p.is_meta for p in method.parameters())
    front = args["student"]["front"]["init_args"]
    if "image_size" in front:
        side = front["image_size"] // front["patch_size"]
        assert 0 < method.task.masking.num_masked((side, side)) < side**2
    if hasattr(method.student.front.feature_extractor, "num_frames"):
        frames = method.student.front.feature_extractor.num_frames(
            int(16_000 * config["data"]["init_args"]["min_seconds"])
        )
        assert 0 < method.task.masking.num_masked((frames,)) < frames
    assert method.task.targets.top_k <= method.student.trunk.depth


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize(
    ("recipe", "trainable", "frozen", "averaged"),
    [
        # CHECKPOINT_LAYOUT.md, which lists every tensor of the official Base models. `v1_vision`: 190 tensors with
        # lm_head. The average of fairseq's port leaves out what its teacher does not use.
        ("vision.yaml", 86_256_720, 0, 86_256_720 - (768 * 768 + 768)),
        # `v2_image`: 164 tensors, of which the positions are frozen; `_ema`: all without the decoder.
        ("v2/vision.yaml", 88_233_216, 196 * 768, 85_797_888),
        # `v1_audio`: 232 tensors. Averaged: blocks, the norm before them, and the mask embedding, which the official
        # average lacks; the official file also holds the positions, which it only copies.
        ("speech.yaml", 93_754_880, 0, 12 * 7_087_872 + 1536 + 768),
        # `v2_audio`: 192 tensors; `_ema`: without the convolutions and the projection.
        ("v2/speech.yaml", 93_783_308, 0, 88_561_932),
        # `v1_text`, `v2_text`: fairseq's position tables have two more rows, which no token uses; only blocks averaged.
        ("text.yaml", 126_415_872 - 2 * 768, 0, 12 * 7_087_872),
        ("v2/text.yaml", 152_961_792 - 2 * 768, 0, 12 * 7_087_872),
    ],
)
def test_base_models_have_the_official_number_of_parameters(recipe, trainable, frozen, averaged):
    with torch.device("meta"):
        method = build_method(load(recipe)["model"]["init_args"])
    ours = [*method.student.parameters(), *method.task.head.parameters()]
    assert count(p for p in ours if p.requires_grad) == trainable
    assert count(p for p in ours if not p.requires_grad) == frozen
    assert count(method.teacher.parameters()) == averaged
