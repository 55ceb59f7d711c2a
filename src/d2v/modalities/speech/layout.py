"""What lies in a root, and which of it is for training.

A root is one of
  - a LibriSpeech folder (or the folder that holds ``LibriSpeech/``): its ``train-*`` subsets, and ``dev-clean``;
  - a tree with ``train/`` and ``val/`` (or ``validation/``, ``valid/``, ``test/``);
  - fairseq manifests: a folder with ``train.tsv`` and ``valid.tsv``, or one ``.tsv`` file;
  - any other folder, a glob, or one file of sound: all of it is for training;
  - Hugging Face parquet or WebDataset tars, named or placed as for pictures.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from d2v.data.files import VAL_NAMES, archives_beside, archives_named, list_files
from d2v.errors import UserError
from d2v.modalities.speech.archives import ParquetSource, TarSource
from d2v.modalities.speech.decoding import AUDIO_SUFFIXES
from d2v.modalities.speech.sources import AudioSource, FileSource, read_manifest

_DEV_NAMES = ("dev-clean", "dev-clean-2", "dev-clean-5", "dev", "dev-other", *VAL_NAMES)
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
    for kind in (ParquetSource, TarSource):
        train_files, val_files = _archives(path, kind.suffix, train_split, val_split)
        if not train_files:
            continue
        if val_files or val_split is None:
            return kind(train_files), kind(val_files) if val_files else None
        return kind(train_files), _split(path, val_split, "val_split")
    train_names = _listed(train_split) or _training_subsets(path)
    val_name = val_split or next((name for name in _DEV_NAMES if _exists(path, name)), None)
    # Without a training split everything is for training, but never the validation split.
    train = _split(path, ",".join(train_names), "train_split") if train_names else _folder(path, exclude=val_name)
    return train, None if val_name is None else _split(path, val_name, "val_split")


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
            val_split = next((name for name in _DEV_NAMES if path.with_name(f"{name}.tsv").is_file()), None)
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


def _archives(root: Path, suffix: str, train_split: str | None, val_split: str | None) -> tuple[list[Path], list[Path]]:
    """Archives to train and to validate on; none to train on if the training split is something else."""
    if val_split is not None:
        val = _all_named(root, suffix, val_split, "val_split")
    else:
        val = next((files for name in _DEV_NAMES if (files := archives_named(root, suffix, name))), [])
    if train_split is not None:
        train = _all_named(root, suffix, train_split, "train_split")
        return train, val if val_split is not None else [file for file in val if file not in train]
    subsets = _training_subsets(root)
    train = [file for name in subsets or ["train"] for file in archives_named(root, suffix, name)]
    if not train and not subsets:  # nothing says what is for training: everything is
        train = archives_beside(root, suffix)
    return [file for file in train if file not in val], val


def _all_named(root: Path, suffix: str, names: str, key: str) -> list[Path]:
    """Archives of several splits, comma-separated; none if not one of the names is that of archives."""
    found = {name: archives_named(root, suffix, name) for name in _listed(names)}
    missing = [name for name, files in found.items() if not files]
    if missing and len(missing) < len(found):
        raise _not_there(root, missing[0], key)
    return list(dict.fromkeys(file for files in found.values() for file in files))


def _not_there(root: Path, name: str, key: str) -> UserError:
    there = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    default = "take train/ or everything" if key == "train_split" else "take dev-clean, dev, val or the like, if any"
    return UserError(
        f"data.{key}: there is no folder {name}, no manifest {name}.tsv and no archive with this word in its name in "
        f"{root}; there {'are: ' + ', '.join(there[:12]) if there else 'is nothing'}{' ...' if len(there) > 12 else ''}"
        f". Set data.{key} to what is there, or to null to {default}."
    )


def _split(root: Path, names: str, key: str) -> FileSource:
    """Subsets, comma-separated, as one."""
    parts = []
    for name in _listed(names):
        place = root / name
        manifest = place if name.endswith(".tsv") else root / f"{name}.tsv"
        if place.is_dir():
            parts.append(_folder(place))
        elif manifest.is_file():
            parts.append(read_manifest(manifest))
        elif any(mark in name for mark in _GLOB):
            parts.append(_globbed(str(place)))
        else:
            raise _not_there(root, name, key)
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


def _training_subsets(root: Path) -> list[str]:
    if _exists(root, "train"):
        return ["train"]
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name.startswith("train-"))


def _exists(root: Path, name: str) -> bool:
    return (root / name).is_dir() or (root / f"{name}.tsv").is_file()


def _listed(names: str | None) -> Sequence[str]:
    return [name.strip() for name in names.split(",") if name.strip()] if names else []


def _hint(folder: Path) -> str:
    other = (".m4a", ".aac", ".wma", ".mp4", ".webm")
    found = list_files(folder, other)
    kind = Path(found[0]).suffix.lower() if found else ""
    return (
        f" libsndfile cannot read the {len(found)} {kind} files there: convert them to FLAC or Opus." if found else ""
    )
