"""Text to token ids and back, with any tokenizer of the ``tokenizers`` library."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from d2v.errors import UserError
from d2v.modalities.text import bpe
from d2v.modalities.text.special_tokens import HIDDEN, NAMES, hide_special_tokens
from d2v.modalities.text.tokenizer_files import UNKNOWN_FROM, read_tokenizer
from d2v.modalities.text.tokenizer_patterns import why_not_run
from d2v.whole_files import write_text


class TextTokenizer:
    """A tokenizer and the ids of its special tokens, which are found by their names (RoBERTa's or BERT's).

    The names of special tokens inside a text are treated as ordinary text, whatever the kind of the tokenizer.

    Args:
        text: content of a ``tokenizer.json``; :meth:`open` and :meth:`train` get it for you.
        where: what to call it in messages.

    Raises:
        UserError: it cannot be read, or has no token that begins, ends or pads a sequence.
    """

    def __init__(self, text: str, where: str = "tokenizer.json") -> None:
        try:
            content = json.loads(text)
            if reason := why_not_run(content):
                raise UserError(f"{where}: {reason}, so it is not run; take a byte-level tokenizer, say")
            hide_special_tokens(content)
            self.backend = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
        except (KeyboardInterrupt, SystemExit, UserError):
            raise
        except BaseException as error:  # the library raises plain Exception, and what panics in it is not even one
            raise UserError(f"{where} is not a tokenizer.json of the `tokenizers` library ({error}).") from error
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True  # their names inside a text are plain text
        self._json = text
        ids: dict[str, int | None] = {}
        missing = []
        for kind, names in NAMES.items():
            ids[kind] = self._find(names)
            if ids[kind] is None and kind in ("bos", "pad", "eos"):
                missing.append(" or ".join(names))
        if missing:
            raise UserError(
                f"{where} has no token {', no '.join(missing)}. GPT-2's own vocabulary has none of them: put fairseq's "
                "dict.txt beside its two files, or take RoBERTa's vocab.json and merges.txt."
            )
        self.bos_id: int = ids["bos"]  # type: ignore[assignment]  # these three were found
        self.pad_id: int = ids["pad"]  # type: ignore[assignment]
        self.eos_id: int = ids["eos"]  # type: ignore[assignment]
        self.unk_id: int | None = ids["unk"]
        self.mask_id: int | None = ids["mask"]
        self._unknown_from: int | None = content["model"].get(UNKNOWN_FROM)
        self._len = self._unknown_from or max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def open(cls, path: str | Path) -> "TextTokenizer":
        """Read a file, a folder or a prefix; see :func:`~d2v.modalities.text.tokenizer_files.read_tokenizer`.

        Raises:
            UserError: there is none, or it cannot be used.
        """
        return cls(*read_tokenizer(Path(path).expanduser()))

    @classmethod
    def from_json(cls, text: str) -> "TextTokenizer":
        """The tokenizer that :meth:`to_json` wrote."""
        return cls(text)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 50260, progress: bool = False) -> "TextTokenizer":
        """Train a byte-level BPE; the same texts in the same order give the same tokenizer.

        Args:
            texts: read once, in order.
            vocab_size: types, including the 256 bytes; fewer if no remaining pair occurs twice. Five special tokens
                are added: with 50,260 there are as many ids as RoBERTa has, 50,265.
            progress: whether to draw progress bars.

        Raises:
            UserError: ``vocab_size`` is less than 256.
        """
        return cls(bpe.train(texts, vocab_size, progress))

    def to_json(self) -> str:
        """The content of ``tokenizer.json``, exactly as it was read."""
        return self._json

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer.json``."""
        write_text(path, self._json)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the content of ``tokenizer.json`` that ignores how it is indented, and what d2v does not read."""
        content = {**json.loads(self._json), "post_processor": None, "truncation": None, "padding": None}
        plain = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(plain.encode(), digest_size=12).hexdigest()

    def __len__(self) -> int:
        """The number of ids, including special ones."""
        return self._len

    def __reduce__(self) -> tuple:
        return TextTokenizer.from_json, (self._json,)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32 [N], without special tokens."""
        return [np.array(ids, dtype=np.int32) for ids in self.ids_of(list(map(without_surrogates, texts)))]

    def ids_of(self, texts: list[str]) -> list[list[int]]:
        """The same as lists, of texts without halves of surrogate pairs."""
        encoded = [one.ids for one in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        if self._unknown_from is None:
            return encoded
        unknown = bpe.FIRST.index("<unk>")  # such a tokenizer has fairseq's ids
        return [np.where(np.less(ids, self._len), ids, unknown).tolist() for ids in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of these ids, with special tokens by their names."""
        return self._as_read.decode(list(map(int, ids)), skip_special_tokens=False)

    @cached_property
    def _as_read(self) -> Tokenizer:
        return Tokenizer.from_str(self._json)

    def sequence(self, *texts: Sequence[int] | np.ndarray, max_length: int) -> list[int]:
        """The input of a model: ``<s> a </s>``, or ``<s> a </s> </s> b </s>`` for a pair, as in RoBERTa.

        Args:
            texts: ids of one text, or of two.
            max_length: in tokens, including special ones; the end of the longer text is cut off to fit.

        Raises:
            UserError: not even the special tokens fit.
        """
        room = max_length - 2 * len(texts)
        if room < 0:
            raise UserError(f"a sequence of {max_length} tokens has no room for its special tokens; allow more")
        first, *others = texts
        if not others:
            return [self.bos_id, *first[:room], self.eos_id]
        second = others[0]
        keep = min(len(first), max(room - room // 2, room - len(second)))
        return [self.bos_id, *first[:keep], self.eos_id, self.eos_id, *second[: room - keep], self.eos_id]

    def _find(self, names: tuple[str, ...]) -> int | None:
        for name in names:
            found = self.backend.token_to_id(name + HIDDEN)
            if found is not None:
                return found
        return None


def without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can hold and UTF-8 cannot, by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
