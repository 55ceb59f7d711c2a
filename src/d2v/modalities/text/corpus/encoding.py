"""Fast encoding of lines to token ids: the ids of words that were seen before are not computed again."""

import json
import struct
from collections.abc import Callable, Sequence

from d2v.modalities.text.tokenizer import TextTokenizer

_CODES = {"uint16": "H", "uint32": "I"}
_MOST_WORDS = 300_000
_LONGEST_WORD = 64


class LineEncoder:
    """Encodes lines, and remembers the ids of words.

    GPT-2's regular expression splits before every single space between two other characters, and merges stay within
    its words; so the ids of a line are the ids of its words in order. With other tokenizers, or more than single spaces
    between words, the library encodes the whole line.

    Args:
        tokenizer: makes the ids.
        dtype: type of the ids, ``uint16`` or ``uint32``, little-endian.
    """

    def __init__(self, tokenizer: TextTokenizer, dtype: str) -> None:
        self._ids_of = tokenizer.ids_of
        self._code = _CODES[dtype]
        self._by_words = splits_at_spaces(tokenizer.to_json())
        self._first = _Words(self._one)
        self._later = _Words(lambda word: self._one(" " + word))

    def encode(self, lines: Sequence[str]) -> list[bytes]:
        """The ids of each line as bytes, without special tokens."""
        if not self._by_words:
            return list(map(self.pack, self._ids_of(list(lines))))
        encoded = []
        first, later = self._first.__getitem__, self._later.__getitem__
        for line in lines:
            words = line.split()
            if len(words) < 2 or " ".join(words) != line:
                encoded.append(self._one(line))
                continue
            begin = first(words[0])
            del words[0]
            encoded.append(begin + b"".join(map(later, words)))
        return encoded

    def _one(self, text: str) -> bytes:
        # A batch of one, because `encode` is slower: it also tracks the places of characters.
        return self.pack(self._ids_of([text])[0])

    def pack(self, ids: list[int]) -> bytes:
        """Ids as bytes."""
        return struct.pack(f"<{len(ids)}{self._code}", *ids)


class _Words(dict[str, bytes]):
    """The ids of words, encoded when first asked for; long words are not kept, because they rarely come again."""

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        ids = self._encode(word)
        if len(word) <= _LONGEST_WORD:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


def splits_at_spaces(tokenizer_json: str) -> bool:
    """Whether a tokenizer is a BPE over the words of GPT-2's regular expression."""
    content = json.loads(tokenizer_json)
    model, before = content["model"], content["pre_tokenizer"] or {}
    return (
        model["type"] == "BPE"
        and not model["dropout"]
        and content["normalizer"] is None
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True)
        and all(token["special"] for token in content["added_tokens"])
    )
