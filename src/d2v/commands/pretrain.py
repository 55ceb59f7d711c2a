"""Pretraining as a function: `d2v fit` with data and values from Python, with the same checks and messages."""

import inspect
import json
import os
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lightning as L

from d2v.checkpoints.load import load
from d2v.commands.arguments import parameters_of
from d2v.commands.early_checks import SECTIONS, checked_words
from d2v.commands.run import RunCLI, run_trainer
from d2v.commands.run_folder import RUN_DIR_VARIABLE
from d2v.config_messages import key_of
from d2v.data.sources.splits import TRAIN_NAMES, VAL_NAMES
from d2v.errors import Interrupted, UserError, some_of
from d2v.joint_configs import parts_named
from d2v.model.encoder import Encoder

Recipe = str | Path | Sequence[str | Path]


def pretrain(
    data: Any, out: str | Path, recipe: Recipe, *, val_data: Any = None, resume: bool = False, **overrides: Any
) -> Encoder | dict[str, Encoder]:
    """Pretrain by a recipe, as `d2v fit` does, and load the student.

    Args:
        data: A path, as ``--data.root`` takes it; or a data set (of torch, with a length and items by number, or of
            Hugging Face's ``datasets``), or a LightningDataModule. Of a joint recipe these by the names of its media,
            ``{"vision": data_set, "speech": DIR}``, or a :class:`~d2v.data.joint.JointDataModule`.
        out: Folder of the run, which :func:`d2v.load`, `d2v probe` and `d2v embed` read afterwards.
        recipe: One or several configs, by path or by the name of a shipped one; later ones change earlier ones.
        val_data: Validation split of a data set; None: none, unless ``val_fraction`` holds out a share. Of a joint
            recipe by the names of its media.
        resume: Continue the run in ``out``.
        overrides: Values of the recipe by their keys, ``**{"model.optimizer.lr": 1e-3}`` or
            ``model__optimizer__lr=1e-3``. A key without a section is one of the top level, of the trainer
            (``max_steps=100``) or else of the data (``batch_size=32``, ``transform=v2.RandomResizedCrop(64)``).

    Returns:
        The student in eval mode, on the CPU; of a joint recipe those of all media, by name.

    Raises:
        UserError: A config, a value or the data is wrong, or there is a run in ``out`` already.
        KeyboardInterrupt: It was stopped; what was learned so far is saved.
    """
    out, media = Path(out).expanduser(), parts_named(words_of(recipe, overrides, {}))
    given, roots = _given(data, val_data, media)
    words = [*words_of(recipe, overrides, given), *roots]
    if resume:
        words.append(f"--resume={out}")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"out {out}: there is a run in it; give another folder, or resume=True to continue that run")
    else:
        if out.is_dir():
            out.rmdir()
        words += [f"--trainer.default_root_dir={out.parent}", f"--run_name={out.name}"]
    cli = _WithData.__new__(_WithData)
    cli.given = given
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _run(cli, words, overrides)
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from stop
    finally:
        os.environ.pop(RUN_DIR_VARIABLE, None)
        if threading.current_thread() is threading.main_thread():  # Lightning leaves its own
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert cli.run_dir is not None
    if media:
        return {name: load(cli.run_dir, modality=name) for name in media}
    return load(cli.run_dir)


def from_recipe(recipe: Recipe, **overrides: Any) -> L.LightningModule:
    """The untrained LightningModule of a recipe, for a Trainer and data of your own.

    Args:
        recipe: As in :func:`pretrain`.
        overrides: Likewise.

    Raises:
        UserError: A config or a value is wrong.
    """
    cli = _ModelAlone.__new__(_ModelAlone)
    words = words_of(recipe, overrides, {})
    _run(cli, [*words, *of_each_part(words, "root", ".")], overrides)  # no data are read
    return cli.model


def _run(cli: RunCLI, words: Sequence[str], overrides: Mapping[str, Any]) -> None:
    try:
        run_trainer(checked_words("fit", words), cli)
    except UserError as error:
        for name in overrides:
            if str(error).startswith(f"data.{name}: ") and "has no such key" in str(error):
                near = get_close_matches(name, [*SECTIONS, *inspect.signature(L.Trainer).parameters], 1, 0.8)
                hint = f"Or {near[0]}?" if near else "Keys of the model are in full, such as model__optimizer__lr"
                raise UserError(f"{error}{'' if str(error).endswith('?') else '.'} {hint}") from error
        raise


class _WithData(RunCLI):
    """The command with data that no config can hold."""

    given: "_Given"

    def _build(self, class_type: type, *args: Any, **kwargs: Any) -> Any:
        if not (self.given and isinstance(class_type, type) and issubclass(class_type, L.LightningDataModule)):
            return super()._build(class_type, *args, **kwargs)
        if isinstance(self.given, L.LightningDataModule):
            return self.given
        key = key_of(self.config[self.subcommand], class_type, kwargs) or "data"
        given = self.given.get(key, {})
        if unknown := sorted(given.keys() - parameters_of(class_type).keys()):
            names = some_of([f"{key}.{name}" for name in unknown], 5)
            self._refusal = UserError(f"{names}: {class_type.__name__} of this recipe takes no object of Python there")
            raise self._refusal
        return super()._build(class_type, *args, **{**kwargs, **given})


class _ModelAlone(RunCLI):
    """Reads the config of the command and builds the model, without a folder, data or a trainer."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config.trainer.logger = config.trainer.callbacks = config.data = None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        return L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is run."""


_Given = dict[str, dict[str, Any]] | L.LightningDataModule
"""What takes the place of the section ``data``, or values for the DataModules by their keys."""


def _given(data: Any, val_data: Any, media: Sequence[str]) -> tuple[_Given, list[str]]:
    """What no config can hold, and words for what one can."""
    split = {"data": (data, val_data)}
    if isinstance(data, L.LightningDataModule):
        keys = [f"data.parts.{name}" for name in media] or ["data"]
        return data, [f"--{key}.root=given in Python" for key in keys]
    if media:
        names = ", ".join(f'"{name}": ...' for name in media)
        text = f"the recipe has several media; give a path or a data set for each, {{{names}}}"
        if not isinstance(data, Mapping) or not data.keys() <= set(media):
            raise UserError(f"data: {text}, or a JointDataModule")
        if val_data is not None and (not isinstance(val_data, Mapping) or not val_data.keys() <= data.keys()):
            raise UserError(f"val_data: {text}")
        split = {f"data.parts.{name}": (one, (val_data or {}).get(name)) for name, one in data.items()}
    given: dict[str, dict[str, Any]] = {}
    words = []
    for key, (one, val) in split.items():
        root = str(one)
        if not isinstance(one, str | Path):
            given[key], root = _splits(one, val), f"{key}, given in Python"  # another one each: so they are told apart
        elif val is not None:
            raise UserError(f"val_data is for data sets; of data {one} name the split: val_split")
        words.append(f"--{key}.root={root}")
    return given, words


def _splits(data: Any, val_data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):  # a DatasetDict
        found = {}
        for key, names in (("dataset", TRAIN_NAMES), ("val_dataset", VAL_NAMES)):
            found[key] = next((data[name] for name in names if name in data), None)
        if found["dataset"] is None:
            raise UserError(f"data: there is no split train among {some_of(list(data), 8)}; give data[NAME]")
        return found
    return {"dataset": data, "val_dataset": val_data}


def of_each_part(words: Sequence[str], key: str, value: Any) -> list[str]:
    """Words that give a value to the data of a command line, or to each part of joint data."""
    names = parts_named(words)
    return [f"--data.parts.{name}.{key}={value}" for name in names] or [f"--data.{key}={value}"]


def words_of(recipe: Recipe, overrides: Mapping[str, Any], given: _Given) -> list[str]:
    """The words of a command line; what words cannot say is added to what is given."""
    words = []
    for name in [recipe] if isinstance(recipe, str | Path) else recipe:
        words.append(f"--config={name}")
    for name, value in overrides.items():
        key = name.replace("__", ".")
        if "." not in key and key in inspect.signature(L.Trainer).parameters:
            key = f"trainer.{key}"
        elif "." not in key and key not in SECTIONS:
            key = f"data.{key}"
        try:
            text = value if isinstance(value, str | Path) else json.dumps(value)
            words.append(f"--{key}={text}")
        except TypeError as error:
            section, _, name = key.rpartition(".")
            if not re.fullmatch(r"data(\.parts\.[^.]+)?", section) or isinstance(given, L.LightningDataModule):
                raise UserError(
                    f"{key}: {type(value).__name__} cannot be written into a config; name its class"
                ) from error
            given.setdefault(section, {})[name] = value
    return words
