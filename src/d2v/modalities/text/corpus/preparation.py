"""From raw text to a tokenizer and token shards: ``d2v prepare text``, and what `d2v fit` does with raw text."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from d2v.data.cores import available_cores
from d2v.data.file_index import fingerprint
from d2v.data.user_cache import bound_size, cached_arrays, entry_path, hold
from d2v.errors import UserError
from d2v.modalities.text.corpus.corpus_files import NAME_IT, Corpus
from d2v.modalities.text.corpus.preparing import SETTINGS, UNFINISHED, PreparedText, Preparing, check_settings
from d2v.modalities.text.corpus.shards import FORMAT, SPLITS, Shards, is_prepared, read_index
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.shares import ALONE, Share, ShareDone

log = logging.getLogger(__name__)

_LOCK = ".lock"


def prepare_corpus(
    inputs: Sequence[str],
    output: str | Path,
    *,
    tokenizer: str | None = None,
    vocab_size: int = 50260,
    val_fraction: float = 0.01,
    num_workers: int | None = None,
    text_column: str = "text",
    verify: bool = False,
    share: Share = ALONE,
) -> PreparedText | ShareDone:
    """Train a byte-level BPE, or use a given tokenizer, and write token shards; this is ``d2v prepare text``.

    Several processes may call it at once: one works and the others wait; or each does its share of the shards. If it
    was killed, the same call goes on from there; the shards depend neither on that nor on the number of workers.

    Args:
        inputs: files, folders and globs; see :meth:`~d2v.modalities.text.corpus.corpus_files.Corpus.open`.
        output: folder to write, for :class:`~d2v.modalities.text.corpus.shards.Shards`.
        tokenizer: anything that :meth:`TextTokenizer.open` reads; None: one is trained on at most 128 MiB of the text.
        vocab_size: types of the trained tokenizer, without special tokens.
        val_fraction: every ``round(1 / val_fraction)``-th document is for validation; 0: none.
        num_workers: number of processes; None: one per core.
        text_column: column of tables, or key in JSON lines, that holds the text.
        verify: whether to read the shards again and compare their checksums.
        share: which of several processes this is.

    Raises:
        UserError: there is no text, an input is not readable, or the folder holds something else.
    """
    output = Path(output).expanduser()
    if not 0 <= val_fraction <= 0.5:
        raise UserError(f"val_fraction {val_fraction}: give 0 (no validation), or up to 0.5; 0.01 is one in a hundred")
    corpus = Corpus.open(inputs, text_column, exclude=output)
    given = None if tokenizer is None else TextTokenizer.open(tokenizer)
    prepared = _prepare(corpus, output, given, vocab_size, val_fraction, num_workers, share)
    if isinstance(prepared, ShareDone):
        return prepared
    for split in SPLITS:
        shards = Shards.open(output, split)
        if verify and shards is not None:
            shards.verify()
    return prepared


def open_shards(
    root: str, tokenizer: str | None, vocab_size: int, folder: str | None, val_fraction: float
) -> dict[str, Shards]:
    """Open shards, made from raw text if necessary: the split "train", and perhaps "val".

    Args:
        root: folder of shards, which are taken as they are; or raw text: a file, folder or glob.
        tokenizer: the tokenizer for raw text; None: one is trained. Existing shards must have been made with it.
        vocab_size: types of the tokenizer that is trained.
        folder: folder for the shards of raw text; None: one in the user's cache folder, whose name depends on the text
            and on these arguments.
        val_fraction: share of the documents of raw text that is held out.

    Raises:
        UserError: there is no text, the shards are damaged or unfinished, or another tokenizer made them.
    """
    given = None if tokenizer is None else TextTokenizer.open(tokenizer)
    place = Path(root).expanduser()
    if is_prepared(place) or any(place.glob("train-*.bin")):
        if folder is not None:
            raise UserError(
                f"data.shards is {folder}, and data.root {root} holds shards already. Leave data.shards out, or name "
                "raw text in data.root."
            )
        read_index(place)  # raises an error if the folder is unfinished
    else:
        place = _prepare_root(root, given, vocab_size, folder, val_fraction)
    splits: dict[str, Shards] = {}
    for name in SPLITS:
        shards = Shards.open(place, name)
        if shards is not None:
            splits[name] = shards
    if "train" not in splits:
        raise UserError(f"data.root {root}: no document is left to train on; lower data.val_fraction.")
    if given is not None and given.fingerprint != splits["train"].tokenizer.fingerprint:
        raise UserError(
            f"data.tokenizer {tokenizer} is not the one that made the shards in {place}. Leave it out to use theirs, "
            "or prepare the text again with this one."
        )
    return splits


def verify_once(shards: Shards) -> None:
    """Compare the checksums of a split, unless the same files were found intact before.

    Raises:
        UserError: a file was changed since it was written.
    """

    def verify() -> dict[str, np.ndarray]:
        shards.verify()
        return {"tokens": np.array(shards.num_tokens)}

    files = sorted(shards.folder.glob(f"{shards.split}-*"))
    cached_arrays("text-checked", f"{shards.fingerprint}-{fingerprint(files)}", verify, made_of=shards.folder)


def _prepare_root(
    root: str, given: TextTokenizer | None, vocab_size: int, folder: str | None, val_fraction: float
) -> Path:
    """Make shards of raw text that `d2v fit` was given, or find those that were made before."""
    output = None if folder is None else Path(folder).expanduser()
    how = f"prepare it with `d2v prepare text {NAME_IT}`, and give the folder that this writes as data.root"
    try:
        corpus = Corpus.open([root], exclude=output)
        if output is None:
            made_by = vocab_size if given is None else given.fingerprint
            key = f"{corpus.fingerprint} {made_by} {val_fraction}"
            output = entry_path("text-shards", hashlib.blake2b(key.encode(), digest_size=12).hexdigest(), root)
            hold(output)
        prepared = _prepare(corpus, output, given, vocab_size, val_fraction)
        assert isinstance(prepared, PreparedText)
        if folder is None and prepared.created:
            bound_size(output)
    except UserError as error:  # there is no key of data for the column
        text = str(error).replace(NAME_IT, how)
        if text.startswith("input "):
            text = f"data.root: {text}"
        raise UserError(text) from error
    except OSError as error:
        raise UserError(
            f"data.root {root} is raw text, and its token shards cannot be written to {output} ({error.strerror}); "
            "name another folder: --data.shards FOLDER, or free some space there"
        ) from error
    rank_zero_info(f"data: {root} is raw text; its token shards are in {output}")
    if prepared.invalid:
        rank_zero_warn(f"data: {root}: {prepared.invalid:,} places are not valid UTF-8 and became U+FFFD")
    return output


def _prepare(
    corpus: Corpus,
    output: Path,
    given: TextTokenizer | None,
    vocab_size: int,
    val_fraction: float,
    num_workers: int | None = None,
    share: Share = ALONE,
) -> PreparedText | ShareDone:
    """Write a folder of shards, unless it is there already."""
    settings = {
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "vocab_size": vocab_size,
        "tokenizer": None,
        "val_fraction": val_fraction,
        "text_column": corpus.column,
    }
    if given is not None:
        settings |= {"vocab_size": None, "tokenizer": given.fingerprint}
    if num_workers is None:
        num_workers = max(1, available_cores() // share.local_count)
    work = Preparing(corpus, output, settings, given, num_workers, share)
    if not is_prepared(output):
        _check_folder(output)
        output.mkdir(parents=True, exist_ok=True)
        with _locked(output):
            if not is_prepared(output):  # another process may have made it while this one waited
                work.begin()
                if share.count == 1:
                    work.encode()
                    return work.finish()
    if share.count > 1 and not is_prepared(output):
        work.encode()
        with _locked(output):  # who ends at the same time waits
            if not is_prepared(output):
                left = work.numbers_left()
                return work.finish() if not left else ShareDone(share, output, len(left), len(work.jobs), "parts")
    index = read_index(output)
    if "settings" not in index:
        raise UserError(f"{output}: its shards were not made by `d2v prepare text`; give another folder")
    check_settings(output, index["settings"], settings)
    return PreparedText.of(output, index, len(TextTokenizer.open(output / TOKENIZER)), created=False)


def _check_folder(output: Path) -> None:
    """Raise a UserError if a folder holds something else than our own work."""
    if not output.is_dir() or (output / UNFINISHED / SETTINGS).is_file():
        return
    for path in sorted(output.iterdir()):
        if path.name not in (_LOCK, UNFINISHED):
            raise UserError(f"{output}: holds something else, such as {path.name}; give another folder")


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Hold a lock that is released when the process ends, even if it is killed."""
    lock = FileLock(output / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is preparing it; waiting for it", output)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
