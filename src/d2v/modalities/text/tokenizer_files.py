"""The forms in which a tokenizer may lie on a disk."""

import json
from pathlib import Path

from d2v.errors import UserError
from d2v.modalities.text import bpe

TOKENIZER = "tokenizer.json"
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("encoder.json", "merges.txt"))
_DICTIONARY = "dict.txt"


def read_tokenizer(path: Path) -> tuple[str, str]:
    """Content of a ``tokenizer.json``, and what to call it.

    Args:
        path: A ``tokenizer.json``; a folder that holds one (of Hugging Face, an imported model, token shards); a run's
            folder; a folder with GPT-2's pair (``vocab.json`` and ``merges.txt``, or ``encoder.json`` and
            ``vocab.bpe``), or the beginning of the pair's names (``models/gpt2-``); a ``.ckpt`` of d2v.
            With fairseq's ``dict.txt`` beside the pair the ids are fairseq's.

    Raises:
        UserError: there is nothing of this kind, or it is damaged.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        if path.suffix == ".ckpt" and path.is_file():
            return _of_checkpoint(path), str(path)
        if path.is_file():
            pair = next((pair for pair in _PAIRS if path.name.endswith(pair)), None)
            if pair is None:
                return path.read_text(encoding="utf-8"), str(path)
            prefix = path.name.removesuffix(pair[0]).removesuffix(pair[1])
            if not prefix:
                return _of_folder(path.parent)
            path = path.with_name(prefix)
        for joint in ("", "-", "_", "."):
            found = _pair(path.parent, path.name + joint)
            if found is not None:
                return found
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer {path}: cannot be read ({error})") from error
    raise UserError(
        f"tokenizer {path}: there is nothing of this name; give a tokenizer.json, a folder with one or with vocab.json "
        "and merges.txt, or a checkpoint of d2v"
    )


def _of_folder(folder: Path) -> tuple[str, str]:
    whole = folder / TOKENIZER
    if not (folder / _DICTIONARY).is_file() and whole.is_file():
        return whole.read_text(encoding="utf-8"), str(whole)
    pair = _pair(folder, "")
    if pair is not None:
        return pair
    if whole.is_file():
        return whole.read_text(encoding="utf-8"), str(whole)
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        return _of_checkpoint(last), str(last)
    raise UserError(
        f"tokenizer {folder}: the folder has no tokenizer.json, nor vocab.json and merges.txt (or encoder.json and "
        "vocab.bpe), and is no run of d2v (checkpoints/last.ckpt)"
    )


def _of_checkpoint(path: Path) -> str:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["d2v"]["encoders"][""]["assets"][TOKENIZER]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"tokenizer {path}: this checkpoint holds no tokenizer; name the one it was trained with"
        ) from error
    except Exception as error:  # torch and pickle raise many types at a file that is none of theirs
        raise UserError(f"tokenizer {path}: cannot be read as a checkpoint ({error})") from error


def _pair(folder: Path, prefix: str) -> tuple[str, str] | None:
    """Of a vocabulary and its merges whose names begin so; None if they are not there."""
    for first, second in _PAIRS:
        vocab, merges = folder / (prefix + first), folder / (prefix + second)
        if vocab.is_file() and merges.is_file():
            dictionary = next((p for p in (folder / (prefix + _DICTIONARY), folder / _DICTIONARY) if p.is_file()), None)
            return _join(vocab, merges, dictionary), str(vocab)
    return None


def _join(vocab_file: Path, merges_file: Path, dictionary: Path | None) -> str:
    try:
        vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"tokenizer {vocab_file}: is no JSON ({error})") from error
    if not isinstance(vocab, dict) or not all(isinstance(i, int) for i in vocab.values()):
        raise UserError(f"tokenizer {vocab_file}: expected an object that gives each type its number")
    merges = []
    for number, line in enumerate(merges_file.read_text(encoding="utf-8").split("\n"), 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise UserError(f"tokenizer {merges_file}, line {number}: expected two types, found {line!r}")
        merges.append((pair[0], pair[1]))
    if dictionary is not None and "<s>" not in vocab:
        vocab = _fairseq_ids(vocab, dictionary)
    try:
        return bpe.assemble(vocab, merges)
    except ValueError as error:
        raise UserError(
            f"tokenizer {merges_file}: does not belong to {(dictionary or vocab_file).name} ({error}); take files of "
            "one model"
        ) from error


def _fairseq_ids(vocab: dict[str, int], dictionary: Path) -> dict[str, int]:
    """Ids as fairseq has them: its BPE writes the numbers of types as words, and ``dict.txt`` orders these words.

    A line is ``WORD COUNT``. ``<mask>`` is added by fairseq's task, behind the dictionary's end.
    """
    names = {str(i): name for name, i in vocab.items()}
    ids = {name: i for i, name in enumerate(bpe.FIRST)}
    lines = [line for line in dictionary.read_text(encoding="utf-8").split("\n") if line.strip()]
    for i, line in enumerate(lines, len(bpe.FIRST)):
        word = line.split(" ")[0]
        name = names.get(word, word)  # madeupword0000 stands for itself
        if name in ids:
            raise UserError(f"tokenizer {dictionary}: the word {word!r} stands in it twice")
        ids[name] = i
    ids[bpe.MASK] = len(bpe.FIRST) + len(lines)
    return ids
