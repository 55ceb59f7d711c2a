"""From what a user names to token shards: a folder of them, or raw text, which is prepared once."""

import hashlib
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from d2v.data.file_index import cache_folder, cached_arrays, fingerprint
from d2v.errors import UserError
from d2v.modalities.text.corpus.files import NAME_IT, Corpus
from d2v.modalities.text.corpus.prepare import prepare_corpus
from d2v.modalities.text.corpus.shards import SPLITS, Shards, is_prepared, read_index
from d2v.modalities.text.tokenizer import TextTokenizer


def open_shards(
    root: str, tokenizer: str | None, vocab_size: int, folder: str | None, val_fraction: float
) -> dict[str, Shards]:
    """The splits that there are: "train", and perhaps "val".

    Args:
        root: folder of shards, which are taken as they are; or raw text: a file, folder or glob.
        tokenizer: of raw text; None: one is trained. Of shards: they must have been made with it.
        vocab_size: types of the tokenizer that is trained.
        folder: for the shards of raw text; None: one in the user's cache folder, which has another name when the text
            or what is made of it changes.
        val_fraction: share of the documents of raw text that is held out.

    Raises:
        UserError: there is no text, the shards are damaged or unfinished, or another tokenizer made them.
    """
    place = Path(root).expanduser()
    if is_prepared(place) or any(place.glob("train-*.bin")):
        if folder is not None:
            raise UserError(
                f"data.shards is {folder}, and data.root {root} holds shards already. Leave data.shards out, or name "
                "raw text in data.root."
            )
        read_index(place)  # says so if it is unfinished
    else:
        place = _prepare(root, tokenizer, vocab_size, folder, val_fraction)
    opened = {name: Shards.open(place, name) for name in SPLITS}
    splits = {name: shards for name, shards in opened.items() if shards is not None}
    if "train" not in splits:
        raise UserError(f"data.root {root}: no document is left to train on; lower data.val_fraction.")
    if tokenizer is not None and TextTokenizer.open(tokenizer).fingerprint != splits["train"].tokenizer.fingerprint:
        raise UserError(
            f"data.tokenizer {tokenizer} is not the one that made the shards in {place}. Leave it out to use theirs, "
            "or prepare the text anew with this one."
        )
    return splits


def verify_once(shards: Shards) -> None:
    """Compare the checksums of a split, unless these very files were right before.

    Raises:
        UserError: a file was changed since it was written.
    """

    def verify() -> dict[str, np.ndarray]:
        shards.verify()
        return {"tokens": np.array(shards.num_tokens)}

    files = sorted(shards.folder.glob(f"{shards.split}-*"))
    cached_arrays("text-checked", f"{shards.fingerprint}-{fingerprint(files)}", verify)


def _prepare(root: str, tokenizer: str | None, vocab_size: int, folder: str | None, val_fraction: float) -> Path:
    """Make shards of raw text, or find those that were made before."""
    given = None if folder is None else Path(folder).expanduser()
    try:
        corpus = Corpus.open([root], exclude=given)
    except UserError as error:
        raise UserError(f"data.root: {_by_preparing(error)}") from error
    made_by = vocab_size if tokenizer is None else TextTokenizer.open(tokenizer).fingerprint
    key = hashlib.blake2b(f"{corpus.fingerprint} {made_by} {val_fraction}".encode(), digest_size=12).hexdigest()
    output = given or cache_folder() / f"text-{key}"
    try:
        prepared = prepare_corpus([root], output, tokenizer=tokenizer, vocab_size=vocab_size, val_fraction=val_fraction)
    except UserError as error:
        raise UserError(_by_preparing(error)) from error
    rank_zero_info(f"data: {root} is raw text; its token shards lie in {output}")
    if prepared.invalid:
        rank_zero_warn(f"data: {root}: {prepared.invalid:,} places are no UTF-8 and became U+FFFD")
    return output


def _by_preparing(error: UserError) -> str:
    """What it says, without an option that only `d2v prepare text` has."""
    how = f"prepare it with `d2v prepare text {NAME_IT}`, and give the folder that this writes as data.root"
    return str(error).replace(NAME_IT, how)
