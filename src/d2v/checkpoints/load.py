"""Load pretrained weights: an encoder for features, or the start of another pretraining."""

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from d2v.checkpoints.folder import (
    StateDict,
    any_begins,
    in_short,
    mismatches,
    part_of,
    prefixed,
)
from d2v.checkpoints.opening import Checkpoint, StoredEncoder, open_checkpoint
from d2v.checkpoints.recipe import build_encoder, part_class
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.front_end import FrontEnd
from d2v.model.teacher import Part
from d2v.nn.positional import PositionTable, RelativePositionBias
from d2v.nn.transformer import Transformer

Weights = Literal["student", "teacher"]

_OUTPUT_NORM = "trunk.output_norm."
_STUDENT, _TEACHER, _TASK = "student.", "teacher.encoder.", "task."
_BLOCK = re.compile(r"(?:front\.prenet|trunk\.blocks)\.(\d+)\.")


def load(
    path: str | Path,
    weights: Weights = "student",
    modality: str | None = None,
    allow: Iterable[str] = (),
    **changes: Any,
) -> Encoder:
    """The pretrained encoder of a checkpoint, in eval mode, on the CPU, in fp32.

    Args:
        path: A ``.ckpt`` of ours, the folder of a run (its ``checkpoints/best.ckpt``, else ``last.ckpt``), a folder
            that `d2v import` or `d2v export` wrote, or a checkpoint of others that `d2v import` reads, which is then
            imported once; ``hf://owner/name[@revision][/path]``: such a folder or file on the Hugging Face hub.
        weights: The student's, or the teacher's moving average of them.
        modality: Which encoder of a checkpoint that holds several; it may be left out where there is one.
        allow: Packages outside d2v, such as ``["sensors"]``, whose classes the checkpoint may name, and whose code
            therefore runs. Packages that are installed and declare themselves (entry points ``d2v.packages``) are
            allowed without it.
        changes: Arguments of the encoder's front end or trunk that differ from the checkpoint's, such as
            ``layer_drop=0.1``. At another ``image_size`` tables of positions are interpolated.

    Raises:
        UserError: There is no such checkpoint, it is not known, it is damaged, or the encoder has no such argument.
    """
    if weights not in get_args(Weights):
        raise UserError(f"weights={weights!r}: give one of {', '.join(get_args(Weights))}")
    if not isinstance(allow, str):
        allow = tuple(allow)  # read more than once
    checkpoint = open_checkpoint(path)
    return load_encoder(checkpoint, weights, modality, allow, changes)


def load_encoder(
    checkpoint: Checkpoint,
    weights: Weights = "student",
    modality: str | None = None,
    allow: Iterable[str] = (),
    changes: dict[str, Any] | None = None,
) -> Encoder:
    """The encoder of an open checkpoint; see :func:`load`."""
    path, stored = checkpoint.path, checkpoint.encoder(modality)
    recipe = stored.recipe
    if changes:
        recipe = _changed_recipe(recipe, changes, allow)
    encoder = build_encoder(recipe, allow)
    found = checkpoint.tensors(_STUDENT, modality)
    if weights == "teacher":
        found = _with_borrowed(checkpoint.tensors(_TEACHER, modality), found)
        if not found:
            raise UserError(f"{path}: holds no teacher; load it with weights='student'")
    if changes:
        found = _adapt_weights(found, build_encoder(stored.recipe, allow), encoder, changes)
    problems = mismatches(encoder.state_dict(), found)
    if problems:
        raise UserError(f"{path}: the weights do not fit the encoder: {in_short(problems)}")
    encoder.load_state_dict(found)
    encoder.assets, encoder.licence = stored.assets, stored.licence
    return encoder.eval()


def untrained_like(encoder: Encoder, seed: int, allow: Iterable[str] = ()) -> Encoder:
    """An encoder with random weights that reads the same inputs as a trained one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        untrained = build_encoder(encoder.recipe, allow)
    untrained.assets = dict(encoder.assets)
    return untrained


def _changed_recipe(recipe: Mapping[str, Any], changes: Mapping[str, Any], allow: Iterable[str] = ()) -> dict[str, Any]:
    """The recipe of an encoder with changed arguments of its front end or trunk.

    Raises:
        UserError: Neither has such an argument.
    """
    front, trunk = recipe["front"], dict(recipe["trunk"])
    front_args = dict(front.get("init_args", {}))
    front_class = part_class(front, FrontEnd, allow)
    of_front = list(inspect.signature(front_class).parameters)[1:]  # the first is the trunk
    of_trunk = list(inspect.signature(Transformer).parameters)
    for name, value in changes.items():
        if name in of_front:
            front_args[name] = value
        elif name in of_trunk:
            trunk[name] = value
        else:
            known = f"{front_class.__name__} has {', '.join(of_front)}; the trunk {', '.join(of_trunk)}"
            raise UserError(f"{name}={value!r}: the encoder has no such argument; {known}")
    return {"front": {**front, "init_args": front_args}, "trunk": trunk}


def _adapt_weights(weights: StateDict, original: Encoder, changed: Encoder, changes: Mapping[str, Any]) -> StateDict:
    """Interpolate position and bias tables for another size of pictures, as each forward pass would, and leave out an
    output norm that the changes remove. Everything else stays.

    Args:
        weights: Weights of an encoder.
        original: The encoder; its tables are overwritten.
        changed: The encoder with changed arguments.
        changes: The changed arguments.
    """
    if changes.get("output_norm") is False:
        weights = {name: value for name, value in weights.items() if not name.startswith(_OUTPUT_NORM)}
    if "image_size" not in changes:
        return weights
    weights = dict(weights)
    for name, module in changed.named_modules():
        table = f"{name}.table"
        if isinstance(module, (PositionTable, RelativePositionBias)) and table in weights:
            before: Any = original.get_submodule(name)
            before.get_parameter("table").data = weights[table]
            weights[table] = before.table_for(module.grid).detach().clone()
    return weights


def init_weights(
    method: Data2Vec, path: str | Path, teacher_from: Weights = "teacher", front_of: str | None = None
) -> list[str]:
    """Start a pretraining from the weights of another (``model.init_from``).

    All weights of the student are taken. CLS tokens that the checkpoint has not start anew, and blocks may be counted
    as prenet in one and not in the other. The teacher takes the weights of the checkpoint's teacher, or the student's
    where it has none or ``teacher_from`` says so (as ``--seed_model`` does in data2vec_vision). The head is taken if it
    has the same tensors. Of several encoders on a trunk those start anew of whose kind the checkpoint has none.

    Args:
        method: Changed in place.
        path: As in :func:`load`.
        teacher_from: What the teacher starts as.
        front_of: The only encoder that takes something, and only its front end and head; None: all, and the trunk.

    Returns:
        Notes for the log on weights that do not come from the same part of the checkpoint.

    Raises:
        UserError: The student or the teacher has other tensors than the checkpoint; the message names them.
    """
    stated_as = "model.init_from" if front_of is None else f"model.media.{front_of}.init_from"
    try:
        checkpoint = open_checkpoint(path)
    except UserError as error:
        raise UserError(f"{stated_as} {error}") from error
    key = f"{stated_as} {path}"
    notes: list[str] = []
    sources: dict[str, StoredEncoder] = {}
    chosen: list[tuple[nn.Module, StateDict]] = []
    for name, encoder in method.encoders.items():
        source = None
        if front_of in (None, name):
            source = _source_of(checkpoint, name, encoder)
        if source is None:
            if front_of is None:
                notes.append(f"{name}: {_kind(encoder.recipe)} is not in the checkpoint, and starts anew")
            continue
        found, told = _weights_for(method, name, checkpoint, source, teacher_from, front_of is not None, key)
        chosen += found
        for note in told:
            notes.append(f"{name}: {note}" if name else note)
        sources[name] = checkpoint.encoders[source]
    if not sources:
        kinds = [f"{name} ({_kind(stored.recipe)})".strip() for name, stored in checkpoint.encoders.items()]
        raise UserError(f"{key}: has other encoders than the method: {', '.join(kinds)}")
    for module, weights in chosen:  # all of them fit
        module.load_state_dict(weights)
    for name, stored in sources.items():
        # Data made with another tokenizer are refused when they are adapted to the encoder.
        method.encoders[name].assets = stored.assets
    licences = [stored.licence for stored in sources.values()]
    for encoder in method.encoders.values():  # what is learned on a shared trunk is bound by all of them
        known = dict.fromkeys([encoder.licence, *licences])
        encoder.licence = "; ".join(filter(None, known)) or None
    return notes


def _source_of(checkpoint: Checkpoint, name: str, encoder: Encoder) -> str | None:
    """Which encoder of a checkpoint one starts from: that of its name, else the only one of its kind."""
    if name in checkpoint.encoders:
        return name
    kind = _kind(encoder.recipe)
    alike = [other for other, stored in checkpoint.encoders.items() if _kind(stored.recipe) == kind]
    return alike[0] if len(alike) == 1 else None


def _kind(recipe: Mapping[str, Any]) -> str:
    return str(recipe["front"]["class_path"]).rpartition(".")[2]


def _weights_for(
    method: Data2Vec,
    name: str,
    checkpoint: Checkpoint,
    source: str,
    teacher_from: Weights,
    front_only: bool,
    key: str,
) -> tuple[list[tuple[nn.Module, StateDict]], list[str]]:
    """The weights of the parts of an encoder, its teacher and its head; and notes."""
    chosen, notes = [], []
    encoder, copy, task = method.encoders[name], method.teacher.encoder.by_name[name], method.tasks[name]
    student, teacher = checkpoint.tensors(_STUDENT, source), checkpoint.tensors(_TEACHER, source)
    expected = _state_of(encoder)
    if moved := _prenet_depth(expected) - _prenet_depth(student):
        student, teacher = _with_longer_prenet(student, moved), _with_longer_prenet(teacher, moved)
    has_teacher = bool(teacher) and teacher_from == "teacher"
    for part in expected:
        if part.endswith("front.cls_token") and part not in student:
            student[part] = expected[part]
            notes.append(f"the {len(expected[part])} CLS tokens start anew")
    of_teacher, borrowed = {}, set()
    for part in _state_of(copy):
        if has_teacher and part in teacher:
            of_teacher[part] = teacher[part]
        elif part in student:
            of_teacher[part] = student[part]
            borrowed.add(part.split(".")[1])
    for encoder_of, found, whose in ((encoder, student, "student"), (copy, of_teacher, "teacher")):
        for part in ("front", "trunk")[: 1 if front_only else 2]:
            module: nn.Module = getattr(encoder_of, part)
            values = part_of(found, f"{part}.")
            _require_equal(module.state_dict(), values, f"{whose}'s {part}", key)
            chosen.append((module, values))
    if borrowed:
        note = "the teacher starts as the student"
        if has_teacher:
            note += f" in {', '.join(sorted(borrowed))}"
        notes.append(note)
    head = checkpoint.tensors(_TASK, source)
    if problems := mismatches(task.state_dict(), head):
        notes.append(f"the head starts anew: {in_short(problems, shown=3)}")
    else:
        chosen.append((task, head))
    return chosen, notes


def _state_of(encoder: Encoder) -> StateDict:
    """Front end and trunk, whether or not the trunk is a child of the encoder."""
    parts = (("front", encoder.front), ("trunk", encoder.trunk))
    return {f"{part}.{name}": value for part, module in parts for name, value in module.state_dict().items()}


def _prenet_depth(weights: StateDict) -> int:
    """Blocks of an encoder before those that targets can be taken from."""
    numbers = [int(match[1]) for match in map(_BLOCK.match, weights) if match and "prenet" in match[0]]
    return max(numbers, default=-1) + 1


def _with_longer_prenet(weights: StateDict, moved: int) -> StateDict:
    """The same network with ``moved`` more of its blocks in the prenet, which computes the same."""
    before = _prenet_depth(weights)
    renamed: StateDict = {}
    for name, value in weights.items():
        match = _BLOCK.match(name)
        if match:
            number = int(match[1])
            if "trunk" in match[0]:
                number += before
            place = f"front.prenet.{number}"
            if number >= before + moved:
                place = f"trunk.blocks.{number - before - moved}"
            name = f"{place}.{name[match.end() :]}"
        renamed[name] = value
    return renamed


def _require_equal(expected: StateDict, found: StateDict, part: str, key: str) -> None:
    if problems := mismatches(expected, found):
        raise UserError(f"{key}: the weights do not fit the {part}: {in_short(problems)}")


def _with_borrowed(teacher: StateDict, student: StateDict) -> StateDict:
    """The teacher's tensors, with the student's for the parts that they share."""
    if not teacher:
        return {}
    complete = dict(teacher)
    for part in get_args(Part):
        prefix = f"front.{part}."
        if not any_begins(teacher, prefix):
            complete |= prefixed(student, prefix)
    return complete
