"""What lies in a root, and which of it is for training.

A root is one of
  - a tree with a folder a split (``d2v.data.sources.splits`` knows their names), such as LibriSpeech (or the folder
    that holds ``LibriSpeech/``): its ``train-*`` subsets, and ``dev-clean``;
  - fairseq manifests: a folder with ``train.tsv`` and ``valid.tsv``, or one ``.tsv`` file;
  - any other folder, a glob, or one file of sound: all of it is for training;
  - Hugging Face parquet or WebDataset tars: a folder a split, or the names of splits among the words of theirs.
"""

import glob
import os
from pathlib import Path

from d2v.data.files import list_files
from d2v.data.sources.splits import (
    VAL_NAMES,
    archives_beside,
    files_in,
    find_splits,
    listed,
    not_there,
    of_one_ending,
)
from d2v.errors import UserError
from d2v.modalities.speech.archives import ParquetSource, TarSource
from d2v.modalities.speech.decoding import AUDIO_SUFFIXES
from d2v.modalities.speech.sources import AudioSource, FileSource, read_manifest

_KINDS = {kind.suffix: kind for kind in (ParquetSource, TarSource)}
_ARCHIVES, _MANIFESTS = tuple(_KINDS), (".tsv",)
_GLOB = "*?["


def open_sources(
    root: str, train_split: str | None = None, val_split: str | None = None
) -> tuple[AudioSource, AudioSource | None]:
    """Recognise what lies in ``root`` and open its training and validation split.

    Args:
        root: a folder, a manifest, a glob or a file of sound.
        train_split: names of subsets (folders, manifests without ``.tsv``, or words in the names of archives),
            comma-separated; None: found by name.
        val_split: likewise; None: the first of dev-clean, dev, val, ... that exists, if any.

    Raises:
        UserError: there is no such root or split, or no sound in it.
    """
    path = Path(root).expanduser()
    if any(mark in root for mark in _GLOB) and not path.exists():
        return _globbed(str(path)), None if val_split is None else _split(Path.cwd(), val_split, "val_split")
    if not path.exists():
        raise UserError(f"data.root {root} does not exist. Set it to the folder, manifest or glob that has the sound.")
    if path.is_file():
        return _from_file(path, train_split, val_split)
    if (path / "LibriSpeech").is_dir():
        path = path / "LibriSpeech"
    found = find_splits(path, _ARCHIVES, _MANIFESTS, train_split, val_split)
    val_places = found.val or []
    if found.train is not None:
        train = _opened(found.train)
    elif beside := archives_beside(path, _ARCHIVES):
        train = _opened([file for file in beside if file not in val_places] or beside)
    else:
        train = _folder(path, exclude=val_places[0].name if val_places else None)
    return train, _opened(val_places) if val_places else None


def open_everything(root: str) -> AudioSource:
    """All sound in a root, whatever split it belongs to.

    Raises:
        UserError: there is no such root, or no sound in it.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        return open_sources(root)[0]
    if list_files(path, AUDIO_SUFFIXES):
        return _folder(path)
    for kind in (ParquetSource, TarSource):
        if files := list_files(path, (kind.suffix,)):
            return kind([path / file for file in files])
    if manifests := list_files(path, (".tsv",)):
        return FileSource.joined([read_manifest(path / file) for file in manifests])
    return _folder(path)


def _from_file(path: Path, train_split: str | None, val_split: str | None) -> tuple[AudioSource, AudioSource | None]:
    if path.suffix.lower() == ".tsv":
        train: AudioSource = read_manifest(path)
        if train_split is not None and train_split != path.stem:
            raise UserError(f"data.train_split {train_split}: data.root is the one manifest {path}; give its folder.")
        if val_split is None and path.stem == "train":
            val_split = next((name for name in VAL_NAMES if path.with_name(f"{name}.tsv").is_file()), None)
    elif path.suffix.lower() in AUDIO_SUFFIXES:
        train = FileSource(path.parent, [path.name], [""])
    elif path.suffix.lower() in (".parquet", ".tar"):
        train = (ParquetSource if path.suffix.lower() == ".parquet" else TarSource)([path])
    else:
        raise UserError(
            f"data.root {path} is neither a folder nor a manifest (.tsv), parquet, tar or a file of sound "
            f"({', '.join(AUDIO_SUFFIXES)})."
        )
    return train, None if val_split is None else _split(path.parent, val_split, "val_split")


def _opened(places: list[Path]) -> AudioSource:
    """Folders, manifests or archives as one source."""
    archives: list[Path] = []
    parts: list[FileSource] = []
    for place in places:
        inside = [place] if place.suffix in _ARCHIVES else of_one_ending(files_in(place, _ARCHIVES), _ARCHIVES)
        if inside:
            archives += inside
        else:
            parts.append(_folder(place) if place.is_dir() else read_manifest(place))
    if archives and not parts:
        return _KINDS[archives[0].suffix.lower()](archives)
    return FileSource.joined(parts)


def _split(root: Path, names: str, key: str) -> FileSource:
    """Subsets, comma-separated, as one."""
    parts = []
    for name in listed(names):
        place = root / name
        manifest = place if name.endswith(".tsv") else root / f"{name}.tsv"
        if place.is_dir():
            parts.append(_folder(place))
        elif manifest.is_file():
            parts.append(read_manifest(manifest))
        elif any(mark in name for mark in _GLOB):
            parts.append(_globbed(str(place)))
        else:
            raise not_there(root, name, key, _MANIFESTS)
    if not parts:
        raise UserError(f"data.{key} is {names!r}: it names no subset.")
    return FileSource.joined(parts)


def _folder(folder: Path, exclude: str | None = None) -> FileSource:
    files = list_files(folder, AUDIO_SUFFIXES, exclude)
    if not files:
        raise UserError(f"data.root: no sound ({', '.join(AUDIO_SUFFIXES)}) in {folder} or below.{_hint(folder)}")
    return FileSource(folder, files, [file.split(os.sep, 1)[0] if os.sep in file else "" for file in files])


def _globbed(pattern: str) -> FileSource:
    files = sorted(file for file in glob.glob(pattern, recursive=True) if file.lower().endswith(AUDIO_SUFFIXES))
    if not files:
        raise UserError(f"data.root: no sound ({', '.join(AUDIO_SUFFIXES)}) matches {pattern}.")
    files = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    names = [os.path.relpath(file, folder) for file in files]
    return FileSource(folder, names, [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names])


def _hint(folder: Path) -> str:
    other = (".m4a", ".aac", ".wma", ".mp4", ".webm")
    found = list_files(folder, other)
    kind = Path(found[0]).suffix.lower() if found else ""
    return (
        f" libsndfile cannot read the {len(found)} {kind} files there: convert them to FLAC or Opus." if found else ""
    )
