"""The symbols that a speech recogniser writes, with one id for each letter."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from d2v.errors import UserError

log = logging.getLogger(__name__)

BLANK = "<blank>"
BOUNDARY = "|"
# fairseq's dictionaries hold these before the symbols of the file, and its CTC takes the first for the blank.
_FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_NAME = re.compile(r"<.+>|\[.+\]")


class Alphabet:
    """Symbols by id: the first is the blank of CTC, ``|`` stands between words, names in <> are never written.

    Args:
        symbols: all different.

    Raises:
        UserError: a symbol occurs twice, or there is none besides the blank.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids: dict[str, int] = {}
        self._special: set[int] = set()
        for number, (symbol, count) in enumerate(Counter(self.symbols).items()):
            if count > 1:
                raise UserError(f"alphabet: the symbol {symbol!r} comes {count} times. Each must come once.")
            if number == 0 or (symbol.startswith("<") and symbol.endswith(">")):
                self._special.add(number)
            else:
                self._ids[symbol] = number
        if len(self.symbols) < 2:
            raise UserError(f"alphabet: {list(self.symbols)} holds no symbol beside the blank, which comes first.")
        letters = "".join(self._ids)
        # Most alphabets know one case only, and transcripts come in either.
        self._upper, self._lower = letters == letters.upper(), letters == letters.lower()
        self._unknown: set[str] = set()

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> "Alphabet":
        """Blank, boundary and every character that occurs, sorted.

        Raises:
            UserError: there is no character.
        """
        found = set[str]()
        for text in transcripts:
            found.update(_plain(text))
        found.discard(BOUNDARY)
        if not found:
            raise UserError("alphabet: the transcripts are empty, so there are no letters to learn.")
        return cls((BLANK, BOUNDARY, *sorted(found)))

    @classmethod
    def from_file(cls, path: str | Path) -> "Alphabet":
        """Read one symbol from each line, or a dictionary of fairseq (``SYMBOL COUNT``), with its four specials first.

        A file whose first symbol is not a name in <> (such as ``<blank>``) gets a blank before it.

        Raises:
            UserError: it cannot be read, or is no list of symbols.
        """
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"alphabet {path}: cannot be read ({error}). Give a text file, one symbol a line."
            ) from error
        symbols: list[str] = []
        counted: list[str] = []
        for line in lines:
            words = line.split()
            if line == " ":
                words = [BOUNDARY]
            if words:
                symbols.append(" ".join(words))
            if len(words) == 2 and words[1].isdigit():
                counted.append(words[0])
        if counted and len(counted) == len(symbols):
            symbols = [special for special in _FAIRSEQ_SPECIALS if special not in counted] + counted
        elif not (symbols and _NAME.fullmatch(symbols[0])):
            symbols.insert(0, BLANK)
        try:
            return cls(symbols)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alphabet) and self.symbols == other.symbols

    def __hash__(self) -> int:
        return hash(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without a boundary at its ends. Upper or lower case as the alphabet has it.

        Characters that the alphabet lacks are dropped, each with one warning.
        """
        ids = []
        for character in self._in_case(text):
            if character in self._ids:
                ids.append(self._ids[character])
            elif character not in self._unknown:
                self._unknown.add(character)
                log.warning("alphabet: %r is not in it and is dropped (first in %r)", character, text[:80])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids that are collapsed already; blanks and other specials are left out."""
        letters = "".join(self.symbols[i] for i in ids if i not in self._special)
        return " ".join(letters.replace(BOUNDARY, " ").split())

    def written(self, text: str) -> str:
        """A text in the case of the alphabet with single spaces; characters that the alphabet lacks stay."""
        return self._in_case(text).replace(BOUNDARY, " ")

    def report_unknown(self, transcripts: Iterable[str]) -> Counter[str]:
        """Count the characters that :meth:`encode` will drop, and say so in one warning instead of one for each."""
        unknown = Counter[str]()
        for text in transcripts:
            unknown.update(self._in_case(text))
        for symbol in self._ids:
            del unknown[symbol]
        if unknown:
            shown = ", ".join(f"{character!r} {count:,} times" for character, count in unknown.most_common(10))
            log.warning("alphabet: not in it and dropped from the transcripts: %s", shown)
            self._unknown.update(unknown)
        return unknown

    def _in_case(self, text: str) -> str:
        plain = _plain(text)
        if self._upper == self._lower:  # an alphabet of both cases, or of a script that has none
            return plain
        if self._upper:
            return plain.upper()
        return plain.lower()


def _plain(text: str) -> str:
    """Composed characters, one boundary for any white space between words."""
    return BOUNDARY.join(unicodedata.normalize("NFC", text).split())
