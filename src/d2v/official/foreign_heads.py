"""The heads of fine-tuned models, taken from foreign checkpoints."""

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from d2v.checkpoints.folder import StateDict, in_short, mismatches
from d2v.checkpoints.head_files import HeadInput, HeadTask, StoredHead, head_recipe
from d2v.checkpoints.recipe import build
from d2v.data.alphabet import Alphabet
from d2v.errors import UserError
from d2v.nn.task_heads import ClassifierHead, CTCHead, TanhHead, TaskHead
from d2v.official.imported import Imported
from d2v.text_files import SETTINGS, read_json, read_lines

_DICTIONARIES = "dict.*.txt"
"""What fairseq calls the symbols of its recognisers: dict.ltr.txt, dict.chr7531.txt."""

_LABELS = "label_map.json"
_FAIRSEQ_TEXT_HEAD = re.compile(r"classification_heads\.(?P<name>.+)\.(?:dense|out_proj)\.(?:weight|bias)")
_USUAL_NAME = "sentence_classification_head"
_LIBRISPEECH = (*("<s>", "<pad>", "</s>", "<unk>", "|"), *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""The four specials of fairseq's dictionaries, the first of which its CTC takes for the blank, and dict.ltr.txt."""


def take_classifier(
    found: Imported,
    layers: Mapping[str, str],
    pool: HeadInput,
    names: tuple[str, ...] | None = None,
    task: HeadTask | None = None,
    eps: float = 1e-6,
) -> None:
    """Take a classifier from official tensors, if there is one and ours can be such; else a note says why not.

    Args:
        found: Gets the head; its names are left out no more.
        layers: The official layer that each of ours is ("norm", "hidden", "proj").
        pool: What the head reads.
        names: Of its classes.
        task: None: a regression if it has one output, else one class each.
        eps: Of its norm, which is the encoder's.
    """
    outputs = _outputs(found, layers["proj"])
    kind = TanhHead if "hidden" in layers else ClassifierHead
    with torch.device("meta"):
        module = kind(found.width, outputs, "norm" in layers, eps=eps)
    if _fill(module, found, layers, "classifier"):
        found.head = StoredHead(module, task or ("regression" if outputs == 1 else "single"), pool, names)


def take_fairseq_text_classifier(found: Imported, settings: Mapping[str, Any]) -> None:
    """Take the head of fairseq's sentence classifiers (``RobertaClassificationHead``): linear, tanh, linear on ``<s>``.

    Args:
        found: See :func:`take_classifier`.
        settings: Of the classifier itself.
    """
    names = []
    for key in found.state:
        match = _FAIRSEQ_TEXT_HEAD.fullmatch(key)
        if match and match["name"] not in names:
            names.append(match["name"])
    if not names:
        return
    name = _USUAL_NAME if _USUAL_NAME in names else names[0]
    if len(names) > 1:
        found.notes.append(f"of its {len(names)} classifiers {name} is taken")
    activation = settings.get("pooler_activation_fn", "tanh")
    if activation != "tanh":
        found.notes.append(
            f"the classifier is left out: its pooler_activation_fn is {activation}, and d2v's head has tanh"
        )
        return
    head = f"classification_heads.{name}"
    take_classifier(found, {"hidden": f"{head}.dense", "proj": f"{head}.out_proj"}, pool="cls")


def take_recogniser(found: Imported, layer: str) -> None:
    """Take the head of a recogniser, its symbols not known yet, if there is one; if it is odd, a note says so.

    Args:
        found: See :func:`take_classifier`.
        layer: The official layer: ``w2v_encoder.proj`` of fairseq's ``wav2vec_ctc``.

    Raises:
        UserError: It reads another number of features than the encoder gives.
    """
    weight = found.state.get(f"{layer}.weight")
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[1] != found.width:
        raise UserError(f"the recogniser's head reads {weight.shape[1]} features, the encoder gives {found.width}")
    with torch.device("meta"):
        module = CTCHead(found.width, _outputs(found, layer))
    if _fill(module, found, {"proj": layer}, "head of the recogniser"):
        found.head = StoredHead(module, "ctc", "none")


def _outputs(found: Imported, layer: str) -> int:
    bias = found.state.get(f"{layer}.bias")
    if isinstance(bias, Tensor) and bias.ndim == 1 and len(bias):
        return len(bias)
    return 1  # there is no head, or an odd one


def _fill(module: TaskHead, found: Imported, layers: Mapping[str, str], what: str) -> bool:
    """Put official tensors into a head without memory, if they are there and fit it."""
    official, tensors, expected = {}, {}, {}
    for ours, theirs in layers.items():
        for part in ("weight", "bias"):
            name = f"{theirs}.{part}"
            official[f"{ours}.{part}"] = name
            expected[name] = module.state_dict()[f"{ours}.{part}"]
            if isinstance(found.state.get(name), Tensor):
                tensors[name] = found.state[name].float()
    if not any(official[name] in found.state for name in ("proj.weight", "proj.bias")):
        return False
    if problems := mismatches(expected, tensors):
        found.notes.append(f"the {what} ({', '.join(sorted(expected))}) is left out: {in_short(problems, shown=2)}")
        return False
    module.load_state_dict({ours: tensors[theirs] for ours, theirs in official.items()}, assign=True)
    module.requires_grad_(False).eval()
    found.left_out = [name for name in found.left_out if name not in expected]
    return True


def with_outputs(head: StoredHead, chosen: Sequence[int], names: tuple[str, ...]) -> StoredHead:
    """A head with some of its outputs, or all in another order, and their names."""
    size = "num_symbols" if head.task == "ctc" else "num_classes"
    recipe = head_recipe(head.module)
    arguments = {**recipe["init_args"], size: len(chosen)}
    with torch.device("meta"):
        module = build({**recipe, "init_args": arguments}, get_args(TaskHead))
    weights: StateDict = dict(head.weights)
    for name in ("proj.weight", "proj.bias"):
        weights[name] = weights[name][list(chosen)]
    module.load_state_dict(weights, assign=True)
    return dataclasses.replace(head, module=module.requires_grad_(False).eval(), names=names)


def name_classes(head: StoredHead, file: Path) -> StoredHead:
    """The head with the classes of a file that the user names: one a line, or a CSV with a heading, whose last column
    they are (AudioSet's ``class_labels_indices.csv``).

    Raises:
        UserError: The file cannot be read, or does not fit the head.
    """
    lines = read_lines(file, "--classes", SETTINGS)
    if file.suffix.lower() == ".csv":
        lines = [row[-1] for row in csv.reader(lines[1:]) if row]
    names = tuple(filter(None, map(str.strip, lines)))
    if len(names) != head.num_outputs or len(set(names)) != head.num_outputs:
        raise UserError(
            f"--classes {file}: names {len(set(names))} classes, but the classifier has {head.num_outputs} outputs; "
            "give one name a line, in the order of its training"
        )
    return dataclasses.replace(head, names=names)


def name_classes_beside(head: StoredHead, source: Path, notes: list[str]) -> StoredHead:
    """The head with the classes of AVEX's ``label_map.json`` beside a checkpoint: numbers by name, or the reverse."""
    file = source.parent / _LABELS
    if head.names is not None or not file.is_file():
        return head
    try:
        found = read_json(file)
    except UserError as error:
        notes.append(f"{_LABELS} is not used: {error}")
        return head
    while len(found) == 1 and isinstance(next(iter(found.values())), dict):
        (found,) = found.values()  # a heading around it
    numbers: dict[str, str] = {}
    for name, number in found.items():
        if isinstance(number, str):
            name, number = number, name
        numbers[str(number)] = name
    names = tuple(numbers.get(str(number), "") for number in range(head.num_outputs))
    if len(found) != head.num_outputs or len(set(filter(None, names))) != head.num_outputs:
        notes.append(f"{_LABELS} names {len(found)} classes, the classifier has {head.num_outputs} outputs: not used")
        return head
    notes.append(f"the classes are those of {_LABELS} beside the checkpoint")
    return dataclasses.replace(head, names=names)


def name_symbols(head: StoredHead, dictionary: Path | None, source: Path, notes: list[str]) -> StoredHead | None:
    """A recogniser's head with its symbols: those of a file, of fairseq's ``dict.*.txt`` beside the checkpoint, or
    fairseq's usual ones.

    Args:
        head: Of an import.
        dictionary: A file that the user names.
        source: The checkpoint.
        notes: Extended by where they come from if they had to be looked for.

    Returns:
        The head; None if nothing tells its symbols, with a note.

    Raises:
        UserError: The user's file does not fit the head.
    """
    outputs = head.num_outputs
    if dictionary is not None:
        symbols = Alphabet.from_file(dictionary).symbols
        if len(symbols) != outputs:
            raise UserError(
                f"--dict {dictionary}: makes {len(symbols)} symbols (fairseq's four specials included), but the "
                f"head has {outputs} outputs; give the dictionary that the recogniser was trained with"
            )
        return dataclasses.replace(head, names=tuple(symbols))
    if head.names is not None:
        return head
    for beside in sorted(source.parent.glob(_DICTIONARIES)):
        symbols = Alphabet.from_file(beside).symbols
        if len(symbols) == outputs:
            notes.append(f"the symbols are those of {beside.name} beside the checkpoint")
            return dataclasses.replace(head, names=tuple(symbols))
        notes.append(f"{beside.name} beside the checkpoint has {len(symbols)} symbols, the head {outputs}: not used")
    if outputs == len(_LIBRISPEECH):
        notes.append(
            f"the file does not name its symbols: fairseq's usual {outputs} are taken (--dict FILE names others)"
        )
        return dataclasses.replace(head, names=_LIBRISPEECH)
    notes.append(
        f"the head of the recogniser is left out, because nothing names its {outputs} symbols: import again with "
        "--dict FILE, or with Hugging Face's vocab.json in the folder"
    )
    return None
