"""The one place that finds and opens a checkpoint of ours: a run's ``.ckpt``, an imported or exported folder."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v.checkpoints.folder import (
    CONFIG,
    StateDict,
    any_begins,
    checked_names,
    part_of,
    prefixed,
    read_assets,
    read_config,
    read_weights,
)
from d2v.checkpoints.head_files import StoredHead, read_head, restore_head
from d2v.checkpoints.intact import require_intact
from d2v.checkpoints.places import place_of
from d2v.checkpoints.recipe import checked_recipe
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError

CARD = "README.md"
_OURS = ("format", "model_type", "d2v_version", "method", "head", "source", "assets")
"""What d2v reads in a ``config.json`` for transformers."""


@dataclass(frozen=True)
class StoredEncoder:
    """An encoder in a checkpoint, not built yet."""

    recipe: dict[str, Any]
    """As :attr:`~d2v.model.encoder.Encoder.recipe`."""
    assets: dict[str, str]
    """Its text files by name, such as a tokenizer or the normalisation of pixels."""
    licence: str | None
    """Licence of imported weights and of weights trained from them; None for one's own."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint of ours."""

    path: Path
    """The file, or the folder with ``config.json``."""
    encoders: dict[str, StoredEncoder]
    """By name; a single one is called ``""``."""
    weights: StateDict
    """State dict of the method; an imported model may lack parts."""
    config: dict[str, Any]
    """Content of its ``config.json``, or what that would be: ``method`` (at least ``student``), ``source`` and more."""

    @property
    def origin(self) -> str:
        """Where the weights come from, in words."""
        return str(self.config.get("source", {}).get("layout", "data2vec"))

    def encoder(self, modality: str | None = None) -> StoredEncoder:
        """The encoder of that name; None: the only one.

        Raises:
            UserError: There is no such encoder, or there are several and none is named.
        """
        return self.encoders[self.name_of(modality)]

    def name_of(self, modality: str | None) -> str:
        """Name of the encoder that :meth:`encoder` returns."""
        names = ", ".join(self.encoders)
        if modality is None and len(self.encoders) > 1:
            raise UserError(f"{self.path}: holds several encoders; say which as modality: {names}")
        if modality is None or list(self.encoders) == [""]:
            return next(iter(self.encoders))
        if modality not in self.encoders:
            raise UserError(f"{self.path}: modality={modality!r} is not there; it holds {names}")
        return modality

    def tensors(self, prefix: str, modality: str | None = None) -> StateDict:
        """An encoder's tensors, without ``prefix``: "student." or "teacher.encoder.".

        With several encoders, the encoder's name follows the prefix, except in a trunk that they share.
        """
        name = self.name_of(modality)
        if not name:
            return part_of(self.weights, prefix)
        found = part_of(self.weights, f"{prefix}{name}.")
        if not any_begins(found, "trunk."):
            shared = part_of(self.weights, f"{prefix}trunk.")
            found |= {f"trunk.{key}": value for key, value in shared.items()}
        return found

    def only(self, modality: str | None = None) -> "Checkpoint":
        """The same as if there were no other encoder than this one."""
        name = self.name_of(modality)
        if not name:
            return self
        weights: StateDict = {}
        for prefix in ("student.", "teacher.encoder.", "task."):
            weights |= {prefix + key: value for key, value in self.tensors(prefix, name).items()}
        encoder, source = self.encoders[name], dict(self.config["source"])
        if encoder.licence:
            source["licence"] = encoder.licence
        config = {**self.config, "method": {"student": encoder.recipe}, "source": source}
        return replace(self, encoders={"": encoder}, weights=weights, config=config)

    def head(self) -> StoredHead | None:
        """The head of a fine-tuned model; None: it has none.

        Raises:
            UserError: It is damaged.
        """
        if "head" not in self.config:
            return None
        width = self.encoder().recipe["trunk"].get("width")
        if self.path.is_dir():
            return read_head(self.path, self.config, width)
        try:
            return restore_head(self.config["head"], part_of(self.weights, "head."), width)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path}: its head cannot be read ({error})") from error


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find and read a checkpoint.

    Args:
        path: As :func:`~d2v.checkpoints.places.place_of` takes it.

    Raises:
        UserError: There is no such checkpoint, it is a foreign one that cannot be imported, or it is damaged.
    """
    place = place_of(path)
    return _open_folder(place) if place.is_dir() else _open_file(place)


def _open_folder(path: Path) -> Checkpoint:
    config, weights = read_config(path), read_weights(path)
    if "model_type" in config:  # for transformers: as it was written, or as save_pretrained left it
        config = {key: config[key] for key in _OURS if config.get(key) is not None}
        names = checked_names(config.get("assets", []), path / CONFIG)
        config["assets"] = [name for name in names if (path / name).is_file()]
        weights = prefixed(weights, "student.")
    licence = config.get("source", {}).get("licence")
    encoder = StoredEncoder(checked_recipe(config["method"].get("student")), read_assets(path, config), licence)
    return Checkpoint(path, {"": encoder}, weights, config)


def _open_file(file: Path) -> Checkpoint:
    if file.is_file() and (file.suffix == ".ckpt" or zipfile.is_zipfile(file)):
        require_intact(file, of_a_run=False)
    content = load_untrusted(file)
    state, ours = content.get("state_dict"), content.get("d2v")
    if not isinstance(state, dict) or not isinstance(ours, dict) or not isinstance(ours.get("encoders"), dict):
        raise UserError(f"{file}: is damaged: its weights or its encoders are missing")
    no_tensors = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if no_tensors or not ours["encoders"] or not isinstance(ours.get("head", {}), dict):
        raise UserError(f"{file}: is damaged: an entry of its weights, encoders or head is not what it should be")
    encoders = {}
    for name, entry in ours["encoders"].items():
        if not isinstance(name, str) or not isinstance(entry, dict):
            raise UserError(f"{file}: its encoders are damaged")
        recipe, assets = checked_recipe(entry.get("recipe")), _checked_assets(entry.get("assets"), file)
        encoders[name] = StoredEncoder(recipe, assets, entry.get("licence"))
    source = {"layout": "d2v, pretrained", "file": file.name, "global_step": content.get("global_step")}
    config: dict[str, Any] = {"method": {}, "source": source}
    if "" in encoders:
        config["method"]["student"] = encoders[""].recipe
        if encoders[""].licence:
            source["licence"] = encoders[""].licence
    if "head" in ours:
        config["head"] = {"names": ours.get("alphabet", ours.get("classes")), **ours["head"]}
        source["layout"] = "d2v, fine-tuned with CTC" if "alphabet" in ours else "d2v, fine-tuned to classify"
    return Checkpoint(file, encoders, part_of(state, "method."), config)


def _checked_assets(assets: Any, file: Path) -> dict[str, str]:
    names = checked_names(assets or {}, file)
    if assets and (not isinstance(assets, dict) or not all(isinstance(text, str) for text in assets.values())):
        raise UserError(f"{file}: its assets are no texts; it is refused")
    return {name: assets[name] for name in names}
