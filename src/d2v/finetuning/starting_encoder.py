"""The encoder that a fine-tuning starts from, and the parts of it that stay as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from d2v.checkpoints.load import Weights, load
from d2v.errors import UserError
from d2v.model.encoder import Encoder

MODALITIES = "d2v.modalities."


def obtain_encoder(
    checkpoint: str | None,
    weights: Weights,
    modality: str | None,
    changes: Mapping[str, Any] | None,
    encoder: Encoder | None,
) -> Encoder:
    """A pretrained encoder, or the one that was given.

    Raises:
        UserError: Both or neither were given, or the checkpoint cannot be loaded with these changes.
    """
    if checkpoint is not None and encoder is None:
        try:
            return load(checkpoint, weights, modality, **(changes or {}))
        except UserError as error:
            keys = "model.checkpoint"
            if changes:
                keys += f", with model.encoder_changes {dict(changes)}"
            raise UserError(
                f"{keys}: {error}".replace("say which as modality", "say which as model.modality")
            ) from error
    if encoder is None or checkpoint is not None:
        stated = "neither" if encoder is None else "both"
        raise UserError(
            f"model: {stated} of checkpoint and encoder given; set model.checkpoint to a pretrained encoder (a run's "
            "folder, a .ckpt or an imported folder), or model.encoder to a new one for training from scratch"
        )
    if changes:
        raise UserError("model.encoder_changes: for a checkpoint's encoder; here set them in model.encoder itself")
    return encoder


def require_same_modality(encoder: Encoder, datamodule: Any, checkpoint: str | None) -> None:
    """Compare where a front end and a DataModule of ours live: those of one modality share a folder.

    Raises:
        UserError: They are of two modalities.
    """
    reader, giver = type(encoder.front), type(datamodule)
    if not (reader.__module__.startswith(MODALITIES) and giver.__module__.startswith(MODALITIES)):
        return
    if reader.__module__.split(".")[2] != giver.__module__.split(".")[2]:  # d2v.modalities.text
        key = "model.encoder" if checkpoint is None else f"model.checkpoint {checkpoint}"
        raise UserError(
            f"{key}: a {reader.__name__} cannot read what data ({giver.__name__}) gives; take both of one modality"
        )


def described(names: Sequence[str], shown: int = 40) -> str:
    """How many names there are, and the first of them, for a message."""
    first = " ".join(names[:shown])
    if len(names) > shown:
        first += f" and {len(names) - shown} more"
    return f"{len(names)} ({first})"
