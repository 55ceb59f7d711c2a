"""The DataModule with the labelled samples of a probe, from a config or by what the encoder reads."""

import json
from collections.abc import Mapping
from typing import Any

import jsonargparse
from lightning.pytorch import LightningDataModule

from d2v.built_parts import limit_imports, require_parts
from d2v.config_messages import parser_message
from d2v.data.data_module import PretrainingDataModule
from d2v.data.encoder_inputs import inputs_module
from d2v.data.sources.stores import require_given
from d2v.errors import UserError
from d2v.model.encoder import Encoder

_OF_THE_ROOT = (
    "labels", "train_split", "val_split", "val_fraction", "hold_out", "max_hours", "min_seconds",
    "label_fraction", "max_samples", "subset", "text", "label",
)  # fmt: skip
"""Arguments of DataModules that say what to take from a root, and so hold for that one alone."""


def labelled_data(
    encoder: Encoder, changes: Mapping[str, Any], section: Mapping[str, Any] | None = None
) -> PretrainingDataModule:
    """What reads labelled samples for an encoder, whatever its modality.

    Args:
        encoder: Whose modality has a usual DataModule for them.
        changes: Values for it, such as {"root": DIR}; at the command line words.
        section: ``data`` of the config that the encoder was trained with, if there is one. It holds as it is while its
            root stays. For another root the usual DataModule takes over, with those of its values that are not about
            the root, if they are for the same class.

    Raises:
        UserError: There is no such DataModule, no root, or a value is wrong.
    """
    usual = getattr(inputs_module(encoder), "LABELLED", None)
    section = dict(section or {})
    values = dict(section.get("init_args") or {})
    if "root" in changes:
        for name in _OF_THE_ROOT:
            values.pop(name, None)
    if usual is not None:
        if not section or ("root" in changes and section["class_path"] != usual["class_path"]):
            section, values = usual, {}
        if section["class_path"] == usual["class_path"]:
            stated = {name: value for name, value in values.items() if value is not None}
            values = {**usual["init_args"], **stated}
    if not section:
        front = type(encoder.front).__name__
        raise UserError(f"--config: not given, and nothing says how labelled samples are read for a {front}; give one")
    if section is usual and "root" not in changes:
        raise UserError("--data.root: not given; name a folder or table with labels, such as one folder for each class")
    return build_data({"class_path": section["class_path"], "init_args": values}, changes)


def build_data(section: Mapping[str, Any], changes: Mapping[str, Any]) -> PretrainingDataModule:
    """The DataModule of a config's section ``data``, with changes to it.

    Raises:
        UserError: A value is wrong, or it is no DataModule of d2v.
    """
    require_given(dict(section.get("init_args") or {}).get("root"), "root" in changes)
    words = [f"--data={json.dumps(section, default=str)}"]
    for name, value in changes.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        words.append(f"--data.{name}={text}")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    try:
        limit_imports([section, *changes.values()])
        values = parser.parse_args(words)
        require_parts(values)
        datamodule = parser.instantiate(values).data
    except UserError:
        raise
    except jsonargparse.ArgumentError as error:
        raise UserError(parser_message(error, {})) from error
    except (TypeError, ValueError) as error:  # the DataModule refused its values
        raise UserError(f"data: {error}") from error
    if not isinstance(datamodule, PretrainingDataModule):
        raise UserError(f"data.class_path {values.data.class_path}: it has no labelled splits, so nothing to probe")
    return datamodule
