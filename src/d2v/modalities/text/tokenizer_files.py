"""The file formats that a tokenizer can be read from."""

import itertools
import json
import logging
from pathlib import Path

from d2v.errors import UserError
from d2v.modalities.text import bpe
from d2v.text_files import read_json, read_lines, read_text

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
_PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("encoder.json", "merges.txt"))
_DICTIONARY = "dict.txt"
_NAMED = "tokenizer"  # in messages

UNKNOWN_FROM = "d2v_unknown_from"
"""In the ``model`` of a ``tokenizer.json``: the ids from here on are of types that merges need and the encoder's
dictionary lacks; they are ``<unk>``."""


def read_tokenizer(path: Path) -> tuple[str, str]:
    """Read a tokenizer: the content of a ``tokenizer.json``, and what to call it in messages.

    Args:
        path: A ``tokenizer.json``; a folder with one (from Hugging Face, of an imported model, of token shards); the
            folder of a run; a folder with GPT-2's two files (``vocab.json`` and ``merges.txt``, or ``encoder.json``
            and ``vocab.bpe``), or the prefix of their names (``models/gpt2-``); a ``.ckpt`` of d2v.
            With fairseq's ``dict.txt`` beside the two files the ids are fairseq's.

    Raises:
        UserError: there is no tokenizer, or it is damaged.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        if path.suffix == ".ckpt" and path.is_file():
            return _of_checkpoint(path), str(path)
        if path.is_file():
            prefix = path.name
            for name in itertools.chain(*_PAIRS):
                prefix = prefix.removesuffix(name)
            if prefix == path.name:
                return read_text(path, _NAMED), str(path)
            if not prefix:
                return _of_folder(path.parent)
            path = path.with_name(prefix)
        for joint in ("", "-", "_", "."):
            found = _pair(path.parent, path.name + joint)
            if found is not None:
                return found
    except OSError as error:
        raise UserError(f"tokenizer {path}: cannot be read ({error})") from error
    raise UserError(
        f"tokenizer {path}: there is nothing of this name; give a tokenizer.json, a folder with one or with vocab.json "
        "and merges.txt, or a checkpoint of d2v"
    )


def _of_folder(folder: Path) -> tuple[str, str]:
    whole = folder / TOKENIZER
    if not (folder / _DICTIONARY).is_file() and whole.is_file():
        return read_text(whole, _NAMED), str(whole)
    pair = _pair(folder, "")
    if pair is not None:
        return pair
    if whole.is_file():
        return read_text(whole, _NAMED), str(whole)
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        return _of_checkpoint(last), str(last)
    raise UserError(
        f"tokenizer {folder}: the folder has no tokenizer.json, nor vocab.json and merges.txt (or encoder.json and "
        "vocab.bpe), and is not a run of d2v (checkpoints/last.ckpt)"
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
    except Exception as error:  # torch and pickle raise many types of errors for foreign files
        raise UserError(f"tokenizer {path}: cannot be read as a checkpoint ({error})") from error


def _pair(folder: Path, prefix: str) -> tuple[str, str] | None:
    """Read GPT-2's two files whose names begin with a prefix; None if there are none."""
    for first, second in _PAIRS:
        vocab, merges = folder / (prefix + first), folder / (prefix + second)
        if vocab.is_file() and merges.is_file():
            for dictionary in (folder / (prefix + _DICTIONARY), folder / _DICTIONARY):
                if dictionary.is_file():
                    return _join(vocab, merges, dictionary), str(vocab)
            return _join(vocab, merges, None), str(vocab)
    return None


def _join(vocab_file: Path, merges_file: Path, dictionary: Path | None) -> str:
    vocab = read_json(vocab_file, _NAMED)
    if not all(isinstance(i, int) for i in vocab.values()):
        raise UserError(f"tokenizer {vocab_file}: expected an object that gives each type its number")
    merges = []
    for number, line in enumerate(read_lines(merges_file, _NAMED), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise UserError(f"tokenizer {merges_file}, line {number}: expected two types, found {line!r}")
        merges.append((pair[0], pair[1]))
    unknown_from = None
    if dictionary is not None and "<s>" not in vocab:
        vocab, unknown_from = _fairseq_ids(vocab, dictionary)
    try:
        content = bpe.assemble(vocab, merges)
    except ValueError as error:
        raise UserError(
            f"tokenizer {merges_file}: does not belong to {vocab_file.name} ({error}); use the files of one model"
        ) from error
    if unknown_from is None:
        return content
    marked = json.loads(content)
    marked["model"][UNKNOWN_FROM] = unknown_from
    return json.dumps(marked, ensure_ascii=False)


def _fairseq_ids(vocab: dict[str, int], dictionary: Path) -> tuple[dict[str, int], int | None]:
    """The ids of fairseq: its BPE writes the numbers of types as words, and ``dict.txt`` orders these words.

    A line is ``WORD COUNT``. fairseq's task adds ``<mask>`` after the last word. Types that never came up when
    fairseq's preprocessing made the dictionary are not in it and are ``<unk>``, but merges may need them: they get the
    ids from the second value on, which is None if there are no such types.
    """
    names = {str(i): name for name, i in vocab.items()}
    ids = {name: i for i, name in enumerate(bpe.FIRST)}
    numbers = 0
    for line in read_lines(dictionary, _NAMED):
        if not line.strip():
            continue
        word = line.split()[0]
        numbers += word in names
        name = names.get(word, word)  # madeupword0000 stands for itself
        if name in ids:
            raise UserError(f"tokenizer {dictionary}: the word {word!r} is in it twice")
        ids[name] = len(ids)
    if numbers < len(ids) // 2:
        raise UserError(
            f"tokenizer {dictionary}: does not belong to the files beside it: its words are not the numbers of their "
            f"types, such as {next(reversed(ids))!r}; use the files of one model"
        )
    ids.setdefault(bpe.MASK, len(ids))
    known = len(ids)
    for name in vocab:
        ids.setdefault(name, len(ids))
    if len(ids) == known:
        return ids, None
    log.warning("tokenizer %s lacks %d of %d types: they are <unk>", dictionary, len(ids) - known, len(vocab))
    return ids, known
