"""Sound in archives with random access: Hugging Face parquet and WebDataset tars."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from d2v.data.dataset import BrokenSample
from d2v.data.files import fingerprint
from d2v.data.sources.parquet import encoded_column, load_parquet, named_column
from d2v.data.sources.tars import TarMembers
from d2v.errors import UserError
from d2v.modalities.speech.decoding import AUDIO_SUFFIXES, Encoded
from d2v.modalities.speech.sources import AudioSource, Categories

if TYPE_CHECKING:
    from datasets import Dataset

# Names of columns and of entries in a .json, in the order in which they are looked for.
_TEXT = ("text", "transcript", "transcription", "sentence", "normalized_text", "txt")
_SPEAKER = ("speaker", "speaker_id", "client_id")
_LABEL = ("label", "labels", "cls", "class", "category")


class ParquetSource(AudioSource):
    """Parquet with a column of struct{bytes, path}, and columns of transcripts, speakers or labels.

    Args:
        files: of one split, in their order.

    Raises:
        UserError: a file cannot be read, or not exactly one column holds sound.
    """

    suffix: ClassVar[str] = ".parquet"

    def __init__(self, files: list[Path]) -> None:
        from datasets import Audio

        where = f"data.root: {files[0].parent}/{files[0].name}"
        dataset = load_parquet(files, where)
        self._files = [str(file) for file in files]
        self._audio = encoded_column(dataset.features, Audio, "sound", where)
        self._columns: Dataset = dataset.remove_columns([self._audio])
        self._dataset: Dataset = dataset.select_columns([self._audio]).cast_column(self._audio, Audio(decode=False))
        # Apart from the bytes, which reading a row would copy.
        self._path = f"{self._audio}.path"
        self._paths: Dataset = self._dataset.flatten().select_columns([self._path])

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self, index: int) -> Encoded:
        sound = self._dataset[index][self._audio]
        if sound is None or sound["bytes"] is None:
            raise BrokenSample("the row holds no sound")
        return sound["bytes"]

    def name(self, index: int) -> str:
        path = self._paths[index][self._path]
        return f"{self._files[0]}: row {index}" + (f" ({path})" if path else "")

    def archives(self) -> list[str]:
        return self._files

    def fingerprint(self) -> str:
        return fingerprint(self._files)

    def speakers(self) -> Categories | None:
        return self._categories(_SPEAKER)

    def classes(self, kind: str) -> Categories | None:
        return self._categories(_LABEL) if kind == "label" else None

    def texts(self) -> list[str | None]:
        column = named_column(self._columns.features, _TEXT)
        if column is None:
            return [None] * len(self)
        return [" ".join(text.split()) or None if isinstance(text, str) else None for text in self._columns[column]]

    def _categories(self, names: tuple[str, ...]) -> Categories | None:
        from datasets import ClassLabel

        column = named_column(self._columns.features, names)
        if column is None:
            return None
        feature, values = self._columns.features[column], self._columns[column]
        if isinstance(feature, ClassLabel):
            return Categories.of(["" if value is None or value < 0 else feature.names[value] for value in values])
        return Categories.of(["" if value is None else str(value) for value in values])


class TarSource(AudioSource):
    """Uncompressed tars in which ``KEY.txt``, ``KEY.cls`` or ``KEY.json`` may stand beside ``KEY.flac`` (or the like).

    Args: as for ``ParquetSource``.

    Raises:
        UserError: a tar cannot be read, or holds no sound.
    """

    suffix: ClassVar[str] = ".tar"

    def __init__(self, files: list[Path]) -> None:
        self._members = TarMembers(files, "sound", AUDIO_SUFFIXES, (".txt", ".cls", ".json"), _parse_sidecar)

    def __len__(self) -> int:
        return len(self._members)

    def open(self, index: int) -> Encoded:
        return self._members.open(index)

    def name(self, index: int) -> str:
        return self._members.name(index)

    def fingerprint(self) -> str:
        return self._members.fingerprint()

    def speakers(self) -> Categories | None:
        return Categories.of([entry.get("speaker", "") for entry in self._entries()])

    def classes(self, kind: str) -> Categories | None:
        if kind != "label":
            return None
        cls = self._members.beside[".cls"]
        return Categories.of([cls[i] or entry.get("label", "") for i, entry in enumerate(self._entries())])

    def texts(self) -> list[str | None]:
        txt = self._members.beside[".txt"]
        return [txt[i] or entry.get("text") or None for i, entry in enumerate(self._entries())]

    def _entries(self) -> list[dict[str, str]]:
        beside = self._members.beside[".json"]
        return [json.loads(beside[i] or "{}") for i in range(len(self))]


def _parse_sidecar(data: bytes, suffix: str, where: str) -> str | None:
    """The text on one line; of a .json only what is looked for, under one name each."""
    try:
        text = " ".join(data.decode("utf-8-sig").split())
        if suffix != ".json":
            return text
        entry = json.loads(text)
    except ValueError as error:
        raise UserError(f"data.root: {where} cannot be read: {error}.") from error
    if not isinstance(entry, dict):
        return None
    kept = {}
    for name, aliases in (("text", _TEXT), ("speaker", _SPEAKER), ("label", _LABEL)):
        value = next((entry[alias] for alias in aliases if entry.get(alias) is not None), None)
        if isinstance(value, (str, int)):
            kept[name] = str(value)
    return json.dumps(kept) if kept else None
