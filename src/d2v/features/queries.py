"""What is searched, and what for: rows of files of features in one space, and new files or texts embedded like them."""

import csv
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from d2v.checkpoints.load import load
from d2v.data.sources.source import Listed
from d2v.errors import UserError
from d2v.features.embed import open_pieces
from d2v.features.encode import Skipped, embed_inputs
from d2v.features.feature_files import PooledFeatures, read_pooled
from d2v.features.feature_settings import SPACE_OPTIONS, FeatureOptions, encoder_digest
from d2v.features.pieces import Pieces
from d2v.features.shared_space import Projection, read_space, space_folder
from d2v.model.encoder import Encoder


class Item(NamedTuple):
    """A row, or a query."""

    id: str
    medium: str
    """vision, speech, text, ...; empty if the file of features does not say."""
    place: Path
    """Where it lies, if it is a file."""
    text: str = ""
    """Its words, if it is a text."""


class Query(NamedTuple):
    item: Item
    vector: Float32[np.ndarray, "d"]
    row: int | None
    """The row that it is; None: it is new."""


class Searched:
    """Rows of one or several files of features.

    Args:
        paths: Of the files.
        root: Folder that ids are paths below; None: the input of each embedding.

    Raises:
        UserError: One is no file of pooled features, or they are not in one space.
    """

    def __init__(self, paths: Sequence[Path], root: str | Path | None) -> None:
        self.paths = paths
        self.files = [read_pooled(path) for path in paths]
        for path, file in zip(paths[1:], self.files[1:], strict=True):
            if _space_of(file) is None or _space_of(file) != _space_of(self.files[0]):
                raise UserError(
                    f"{path}: its features are not in the space of {paths[0]}, and cannot be compared with them; embed "
                    "both with --space shared"
                )
        self.vectors = np.concatenate([file.vectors for file in self.files])
        self._starts = np.cumsum([0, *(len(file.ids) for file in self.files)]).tolist()
        self._root = root
        self._texts: dict[int, Mapping[str, str]] = {}

    def item(self, row: int) -> Item:
        """A row, with its words where the texts can be read again."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        file = self.files[number]
        name, medium = file.ids[row - self._starts[number]], str(file.settings.get("modality", ""))
        source = str(file.settings.get("input", ""))
        if number not in self._texts:
            self._texts[number] = _texts_again(medium, source)
        root = Path(source if self._root is None else self._root).expanduser()
        place = (root.parent if root.is_file() else root) / name
        return Item(name, medium, place, self._texts[number].get(name, ""))

    def rows_of(self, query: str) -> list[int]:
        """Rows with this id, or, of FILE:ID, those of this file."""
        found = []
        for path, file, start in zip(self.paths, self.files, self._starts, strict=False):
            for name in dict.fromkeys((query, query.removeprefix(f"{path}:"))):
                if name in file.ids:
                    found.append(start + file.ids.index(name))
        return found

    def queries_of_id(self, query: str) -> list[Query]:
        """The row with an id as a query; none if there is no such id.

        Raises:
            UserError: Several files have it.
        """
        rows = self.rows_of(query)
        if len(rows) > 1:
            raise UserError(
                f"--query {query}: is an id in several of {', '.join(map(str, self.paths))}; write FILE:ID, such as "
                f"{self.paths[0]}:{query}"
            )
        return [Query(self.item(row)._replace(id=query), self.vectors[row], row) for row in rows]

    def unknown(self, query: str) -> str:
        """The message for a query that is neither an id nor embedded."""
        where = " and ".join(map(str, self.paths))
        if Path(query).exists():
            return f"--query {query}: no id in {where}, but a file: give --checkpoint too, and it is embedded"
        ids = [name for file in self.files for name in file.ids]
        near = [name for name in ids if query.lower() in name.lower()][:5]
        if not near:
            folded = {name.lower(): name for name in ids}
            similar = difflib.get_close_matches(query.lower(), list(folded), n=5, cutoff=0.5)
            near = [folded[name] for name in similar]
        hint = ""
        if near:
            hint = f"; near ones: {', '.join(near)}"
        elif ids:
            hint = f"; they look like {ids[0]}"
        return f"--query {query}: neither an id in {where} nor a file{hint}. Words are given with --text"


@dataclass(frozen=True)
class _Embedder:
    encoder: Encoder
    medium: str
    options: FeatureOptions
    projection: Projection | None


class NewQueries:
    """Embeds files and texts as the rows were.

    Args:
        searched: The rows.
        checkpoints: That they were embedded with.
        modality: Which medium new files are of; None: the first that can read them.
        device: Where to compute.
        allow: As in :func:`d2v.load`.

    Raises:
        UserError: A checkpoint is another one.
    """

    def __init__(
        self,
        searched: Searched,
        checkpoints: Sequence[str | Path],
        modality: str | None,
        device: torch.device,
        allow: Iterable[str],
    ) -> None:
        self._searched, self._device = searched, device
        self._embedders: list[_Embedder] = []
        settings, path = searched.files[0].settings, searched.paths[0]
        if "checkpoint_digest" not in settings:
            raise UserError(f"{path}: does not say what it was made with; embed it anew to search by a new file")
        if "space" not in settings:
            encoder = load(checkpoints[0], settings["weights"], modality or settings.get("modality"), allow)
            if encoder_digest(encoder) != settings["checkpoint_digest"]:
                raise UserError(
                    f"--checkpoint {checkpoints[0]}: its {settings['weights']} is not what {path} was made with, "
                    f"which was {settings['checkpoint']}; give that one, or embed anew"
                )
            options = FeatureOptions.of_file(settings)
            self._embedders.append(_Embedder(encoder.to(device), settings.get("modality", ""), options, None))
            return
        space = read_space(space_folder(settings["space_folder"], str(checkpoints[0]).rpartition("=")[2]))
        if space.digest != settings["space"]:
            raise UserError(f"{path}: was made with another shared space than --checkpoint {checkpoints[0]} has now")
        for medium, encoder in space.encoders_of(checkpoints, allow).items():
            if modality in (None, medium):
                projection = space.media[medium]
                self._embedders.append(_Embedder(encoder.to(device), medium, SPACE_OPTIONS, projection))
        if not self._embedders:
            raise UserError(f"--modality {modality}: no --checkpoint has it; the space has {', '.join(space.media)}")

    def of_file(self, query: str) -> list[Query]:
        """Queries from a file, or from all files of a folder or glob."""
        try:
            return self._embedded(query, query)
        except UserError as error:
            if Path(query).exists():
                raise UserError(str(error).replace("--input", "--query")) from error
            raise UserError(self._searched.unknown(query)) from error

    def of_text(self, words: str) -> list[Query]:
        """A text as a query."""
        return self._embedded(words, Listed([words], ".", "--text"))

    def _open(self, root: str | Listed) -> tuple[_Embedder, Pieces]:
        reasons: list[UserError] = []
        for embedder in self._embedders:
            try:
                shared = embedder.projection is not None
                return embedder, open_pieces(embedder.encoder, root, embedder.options, self._device, shared)
            except UserError as error:
                reasons.append(error)
        raise reasons[0]

    def _embedded(self, query: str, root: str | Listed) -> list[Query]:
        embedder, pieces = self._open(root)
        items = embed_inputs(embedder.encoder, pieces, self._device, embedder.options)
        if embedder.projection is not None:
            items = embedder.projection.rows(items, pieces.inputs.grid)
        found = []
        broken = dict(pieces.inputs.broken)
        for item in items:
            if isinstance(item, Skipped):
                broken[item.name] = item.reason
                continue
            name = query if len(pieces.inputs) == 1 else f"{query}: {item.name}"
            words = query if isinstance(root, Listed) else ""
            found.append(Query(Item(name, embedder.medium, Path(query), words), item.features, None))
        for name, reason in broken.items():
            raise UserError(f"--query {query}: {name} cannot be embedded: {reason}")
        return found


def _space_of(file: PooledFeatures) -> object:
    """What must be equal so that vectors can be compared; None: not known."""
    if "space" in file.settings:
        return file.settings["space"]
    return [file.settings.get(name) for name in ("checkpoint_digest", "weights", "layer", "pool", "modality")]


def _texts_again(medium: str, source: str) -> Mapping[str, str]:
    """Texts by their ids; none if they are no texts, or cannot be read any more."""
    module = f"d2v.modalities.{medium}.inputs"
    if not medium.isidentifier() or source in ("", "-") or find_spec(f"d2v.modalities.{medium}") is None:
        return {}
    read = getattr(import_module(module), "read_texts", None)
    try:
        return {} if read is None else dict(read(source))
    except (UserError, OSError, csv.Error):
        return {}
