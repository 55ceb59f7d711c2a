"""A space that several media share: a projection for each, in a folder beside the checkpoints that it was made with."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32

from d2v.checkpoints.folder import StateDict, in_short, part_of, read_tensors, write_files
from d2v.checkpoints.load import Weights, load_encoder
from d2v.checkpoints.opening import open_checkpoint
from d2v.errors import UserError
from d2v.features.encode import Row, Skipped
from d2v.features.feature_settings import encoder_digest
from d2v.features.part_means import levels_of, part_means
from d2v.model.encoder import Encoder
from d2v.text_files import read_text

SHARED = "shared"
"""The space beside a checkpoint, as ``--space`` names it, and its folder."""
_LEARNED = "encoder."
_TENSORS, SETTINGS = "space.safetensors", "space.json"
_FORMAT = 3
LABELS_SHARE = 0.8  # of the product of two vectors
_LARGEST = 2**16  # width, or features of a medium; untrusted files say how much is computed


@dataclass(frozen=True)
class Projection:
    """From the features of one medium into the space."""

    checkpoint: str
    checkpoint_digest: str
    parts: int
    """The finest, as of :func:`~d2v.features.part_means.part_means`."""
    mean: Float32[np.ndarray, "f"]
    weight: Float32[np.ndarray, "k f"]
    """The scale of the features is part of it."""
    anchors: Float32[np.ndarray, "l k"]
    """Vectors of the labels that the rows had, over the temperature; none: [0, K]."""
    learned: StateDict = field(default_factory=dict)
    """Tensors of the encoder that are not those of the checkpoint, because it was trained with the projections."""

    @property
    def width(self) -> int:
        """Of the vectors: a number for each label, and K."""
        return len(self.anchors) + len(self.weight)

    def __call__(self, features: Float32[np.ndarray, "n f"]) -> Float32[np.ndarray, "n _"]:
        """Vectors of length 1. With labels, roots of how likely each is come first: the product of two items' roots is
        the Bhattacharyya coefficient, which says how far they mean the same. The projection orders what means the same.
        """
        projected = (features - self.mean) @ self.weight.T
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        vectors = projected / np.maximum(lengths, np.finfo(np.float32).tiny)
        if len(self.anchors):
            scores = vectors @ self.anchors.T
            likely = np.exp(scores - scores.max(axis=1, keepdims=True))
            roots = np.sqrt(likely / likely.sum(axis=1, keepdims=True))
            vectors = np.hstack([LABELS_SHARE**0.5 * roots, (1 - LABELS_SHARE) ** 0.5 * vectors])
        return vectors.astype(np.float32)

    def rows(self, items: Iterable[Row | Skipped], grid: tuple[int, int] | None) -> Iterator[Row | Skipped]:
        """Features without pooling into the space."""
        for item in part_means(items, self.parts, grid):
            if isinstance(item, Row):
                item = replace(item, features=self(item.features[None])[0])
            yield item


@dataclass(frozen=True)
class SharedSpace:
    """Projections of several media into one space."""

    media: dict[str, Projection]
    weights: Weights
    """Of all encoders."""
    seed: int
    num_pairs: int
    """Rows of the table that it was trained on."""
    version: str
    """Of d2v."""

    @property
    def width(self) -> int:
        """Of its vectors."""
        return next(iter(self.media.values())).width

    @property
    def digest(self) -> str:
        """Hash of all projections: vectors can be compared if they have the same one."""
        digest = blake2b(digest_size=12)
        for name, tensor in sorted(_tensors(self.media).items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def adopt(self, encoder: Encoder, checkpoint: str | Path) -> str:
        """Name of the medium that an encoder of a checkpoint belongs to; it takes over what was trained with the space.

        Raises:
            UserError: The space was made with another checkpoint.
        """
        digest = encoder_digest(encoder)
        for name, projection in self.media.items():
            if projection.checkpoint_digest == digest:
                encoder.load_state_dict(encoder.state_dict() | projection.learned)
                return name
        made_with = [f"{projection.checkpoint} ({name})" for name, projection in self.media.items()]
        raise UserError(
            f"--checkpoint {checkpoint}: its encoder is not in the shared space, which was made with the weights of "
            f"{', '.join(made_with)}; give one of those, or run d2v align anew"
        )

    def encoders_of(self, checkpoints: Sequence[str | Path], allow: Iterable[str]) -> dict[str, Encoder]:
        """Encoders of some checkpoints by their media; those of media that the space does not have are left out.

        Raises:
            UserError: A checkpoint has none that the space was made with.
        """
        found: dict[str, Encoder] = {}
        used, others = set[str](), dict[str, UserError]()
        for path, encoder in load_encoders(checkpoints, self.weights, allow).values():
            try:
                found[self.adopt(encoder, path)] = encoder
                used.add(path)
            except UserError as error:
                others[path] = error
        for path, reason in others.items():
            if path not in used:
                raise reason
        return found


def space_folder(space: str | Path, checkpoint: str | Path) -> Path:
    """Folder of a space: ``shared`` in the folder of a run or beside a file, or the one that is named.

    Raises:
        UserError: ``shared``, and the checkpoint is not on this disk.
    """
    if str(space) != SHARED:
        return Path(space).expanduser()
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path / SHARED
    if not path.is_file():
        raise UserError(f"--checkpoint {checkpoint}: nothing can lie beside it; name the folder of the shared space")
    if path.parent.name == "checkpoints":
        return path.parent.parent / SHARED
    return path.with_name(f"{path.name}.{SHARED}")


def write_space(folder: Path, space: SharedSpace) -> None:
    """Write a new folder, all of it or nothing.

    Raises:
        UserError: Something is there, or the place cannot be written to.
    """
    media = {}
    for name, projection in space.media.items():
        media[name] = {key: getattr(projection, key) for key in _PLAIN}
    settings = {name: getattr(space, name) for name in ("version", "weights", "seed", "num_pairs")}
    settings |= {"format": _FORMAT, "media": media}
    write_files(folder, {_TENSORS: _tensors(space.media)}, {SETTINGS: json.dumps(settings, indent=2) + "\n"})


def read_space(folder: Path) -> SharedSpace:
    """Read the folder of a space, which may come from anybody.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise UserError(f"{folder}: there is no shared space ({SETTINGS}); d2v align makes one")
    try:
        settings = json.loads(read_text(path))
        if settings["format"] != _FORMAT:
            raise UserError(f"{path}: has format {settings['format']!r:.20}, this d2v reads {_FORMAT}; update d2v")
        tensors = read_tensors(folder / _TENSORS)
        media = {}
        for name, entry in settings["media"].items():
            media[name] = _read_projection(name, entry, part_of(tensors, f"{name}."))
        if not media or len({projection.width for projection in media.values()}) != 1:
            raise ValueError("its projections have no width in common")
        if settings["weights"] not in get_args(Weights):
            raise ValueError(f"weights {settings['weights']!r:.40}")
        numbers = int(settings["seed"]), int(settings["num_pairs"])
        return SharedSpace(media, settings["weights"], *numbers, str(settings["version"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is damaged ({error}); run d2v align anew") from error


def load_encoders(
    checkpoints: Sequence[str | Path], weights: Weights, allow: Iterable[str] = ()
) -> dict[str, tuple[str, Encoder]]:
    """All encoders of some checkpoints, and the checkpoint of each, by the names of their media.

    Args:
        checkpoints: As :func:`d2v.load` takes them. An encoder alone in its checkpoint is called as the package of its
            front end: vision, speech, text, audio; ``NAME=PATH`` names it, or takes one of several.
        weights: The students', or the teachers'.
        allow: As in :func:`d2v.load`.

    Raises:
        UserError: One is no checkpoint, or two have encoders of one name.
    """
    found: dict[str, tuple[str, Encoder]] = {}
    allow = [allow] if isinstance(allow, str) else list(allow)
    for given in map(str, checkpoints):
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists() or "/" in name:
            name, path = "", given
        opened = open_checkpoint(path)
        wanted = list(opened.encoders)
        if name and len(wanted) > 1:
            wanted = [opened.name_of(name)]
        for each in wanted:
            encoder = load_encoder(opened, weights, each or None, allow)
            medium = each or name or medium_of(encoder)
            if medium in found:
                raise UserError(
                    f"--checkpoint {path}: has an encoder of {medium}, as {found[medium][0]} has; write NAME=PATH to "
                    "tell them apart"
                )
            found[medium] = path, encoder
    return found


def medium_of(encoder: Encoder) -> str:
    """What an encoder reads, in a word: the package of its front end."""
    return str(encoder.recipe["front"]["class_path"].split(".")[-3:][0])


_PLAIN = ("checkpoint", "checkpoint_digest", "parts")


def _tensors(media: Mapping[str, Projection]) -> StateDict:
    tensors: StateDict = {}
    for name, projection in media.items():
        tensors[f"{name}.mean"] = torch.from_numpy(projection.mean)
        tensors[f"{name}.weight"] = torch.from_numpy(projection.weight)
        if len(projection.anchors):
            tensors[f"{name}.anchors"] = torch.from_numpy(projection.anchors)
        for key, value in projection.learned.items():
            tensors[f"{name}.{_LEARNED}{key}"] = value
    return tensors


def _read_projection(name: str, entry: Mapping[str, Any], tensors: StateDict) -> Projection:
    mean, weight = tensors["mean"], tensors["weight"]
    anchors = tensors.get("anchors", torch.empty(0, len(weight)))
    plain = {key: entry[key] for key in _PLAIN}
    problems = []
    if mean.ndim != 1 or weight.ndim != 2 or weight.shape[1] != len(mean) or max(*weight.shape) > _LARGEST:
        problems.append(f"shapes {list(mean.shape)} and {list(weight.shape)}")
    elif anchors.ndim != 2 or anchors.shape[1] != len(weight) or len(anchors) > _LARGEST:
        problems.append(f"anchors of shape {list(anchors.shape)}")
    for tensor in tensors.values():
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            problems.append("numbers that are not finite, or not float32")
    if plain["parts"] not in levels_of(None):
        problems.append(f"parts {plain['parts']!r:.40}")
    if not isinstance(plain["checkpoint"], str) or not isinstance(plain["checkpoint_digest"], str):
        problems.append("its checkpoint is no text")
    if problems:
        raise ValueError(f"{name}: {in_short(problems)}")
    learned = part_of(tensors, _LEARNED)
    return Projection(**plain, mean=mean.numpy(), weight=weight.numpy(), anchors=anchors.numpy(), learned=learned)
