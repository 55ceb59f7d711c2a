"""The symbols that a speech recogniser writes: letters, digraphs, phones, word pieces or whole words."""

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities import rank_zero_info

from d2v.errors import UserError, some_of
from d2v.text_files import SETTINGS, read_text

log = logging.getLogger(__name__)

BLANK = "<blank>"
BOUNDARY = "|"
_PIECE = "\u2581"  # SentencePiece begins a word with it
# fairseq's dictionaries hold these before the symbols of the file, and its CTC takes the first for the blank.
_FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_NAME = re.compile(r"<.+>|\[.+\]")
_SPECIAL = re.compile(r"<.*>|\[(PAD|UNK|CLS|SEP|MASK|BLANK)\]")
_BLANKS = ("<pad>", "[PAD]", BLANK, "[BLANK]")
"""What Hugging Face's vocabularies call the blank, which need not be their first entry."""
_SELDOM = 5
_TURKISH: dict[str, dict[int, str]] = {
    "lower": str.maketrans({"I": "\u0131", "\u0130": "i"}),
    "upper": str.maketrans({"\u0131": "I", "i": "\u0130"}),
}


class Alphabet:
    """Symbols by id: the first is the blank of CTC, ``|`` stands between words, names in <> are never written.

    A word of a transcript is one symbol if the alphabet has it, and else cut into the longest symbols from its left.
    Symbols of several letters in an alphabet without ``|`` stand apart in a text (phones: ``sh iy``); those that begin
    with U+2581 begin a word (word pieces).

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
            if number == 0 or _SPECIAL.fullmatch(symbol):
                self._special.add(number)
            else:
                self._ids[unicodedata.normalize("NFC", symbol)] = number
        if len(self.symbols) < 2:
            raise UserError(f"alphabet: {list(self.symbols)} holds no symbol beside the blank, which comes first.")
        letters = "".join(self._ids)
        # Most alphabets know one case only, and transcripts come in either.
        self._upper, self._lower = letters == letters.upper(), letters == letters.lower()
        self._turkish = "\u0131" in letters or "\u0130" in letters
        self._unknown: set[str] = set()
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._longer = len(longest_first[0]) > 1 if longest_first else False
        self._pieces = any(symbol.startswith(_PIECE) for symbol in longest_first)
        self._apart = self._longer and not self._pieces and BOUNDARY not in self._ids
        self._pattern = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)

    @classmethod
    def from_transcripts(cls, transcripts: Iterable[str]) -> "Alphabet":
        """Blank, boundary and every character that occurs, sorted; characters that are seldom are named in the log.

        Raises:
            UserError: there is no character.
        """
        found = Counter[str]()
        for text in transcripts:
            found.update(_plain(text))
        del found[" "], found[BOUNDARY]
        if not found:
            raise UserError("alphabet: the transcripts are empty, so there are no letters to learn.")
        seldom = [f"{character!r} {count}" for character, count in found.most_common()[::-1] if count < _SELDOM]
        if seldom:
            rank_zero_info(
                f"alphabet: {len(found)} characters in the training transcripts; {len(seldom)} of them fewer than "
                f"{_SELDOM} times, which is hardly learned: {some_of(seldom, 12)}. data.alphabet FILE states others"
            )
        return cls((BLANK, BOUNDARY, *sorted(found)))

    @classmethod
    def from_file(cls, path: str | Path) -> "Alphabet":
        """Read one symbol from each line, a dictionary of fairseq or a ``vocab.json`` of Hugging Face.

        A dictionary (``SYMBOL COUNT``) gets its four specials first. A vocabulary (``{SYMBOL: ID}``) is taken in the
        order of its ids, with its blank (``<pad>``) first. Any other file whose first symbol is not a name in <> (such
        as ``<blank>``) gets a blank before it.

        Raises:
            UserError: it cannot be read, or is no list of symbols.
        """
        text = read_text(path, "alphabet", most=SETTINGS)
        try:
            return cls(_symbols_of_json(text) or _symbols_of_lines(text))
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
        for symbol in self._cut(text):
            if symbol in self._ids:
                ids.append(self._ids[symbol])
            elif symbol not in self._unknown:
                self._unknown.add(symbol)
                log.warning("alphabet: %r is not in it and is dropped (first in %r)", symbol, text[:80])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids that are collapsed already; blanks and other specials are left out."""
        return self._joined([self.symbols[i] for i in ids if i not in self._special])

    def written(self, text: str) -> str:
        """A text in the case of the alphabet, as :meth:`decode` writes it; characters that the alphabet lacks stay."""
        return self._joined(self._cut(text))

    def report_unknown(self, transcripts: Sequence[str], least_share: float = 0.0) -> Counter[str]:
        """Count the characters that :meth:`encode` will drop, and say so in one warning instead of one for each.

        Raises:
            UserError: a smaller share of the characters can be written than ``least_share``.
        """
        written, unknown = 0, Counter[str]()
        for text in transcripts:
            for symbol in self._cut(text):
                if symbol not in self._ids:
                    unknown[symbol] += 1
                elif symbol != BOUNDARY:
                    written += len(symbol)
        if not unknown:
            return unknown
        shown = ", ".join(f"{character!r} {count:,} times" for character, count in unknown.most_common(10))
        share = written / (written + sum(len(symbol) * count for symbol, count in unknown.items()))
        if share < least_share:
            advice = "Give the alphabet of their language, or null: then it is made of the training transcripts."
            if self._apart:
                advice = f"Without a line | its symbols must stand apart in the transcripts (sh iy). {advice}"
            raise UserError(
                f"data.alphabet: its {len(self._ids)} symbols ({some_of(list(self._ids), 6)}) write only {share:.0%} "
                f"of the transcripts, such as {next(filter(None, transcripts))[:60]!r}; not in it: {shown}. {advice}"
            )
        log.warning("alphabet: not in it and dropped from the transcripts: %s", shown)
        self._unknown.update(unknown)
        return unknown

    def _cut(self, text: str) -> list[str]:
        """Symbols of a text in the case of the alphabet; what it lacks is cut into characters."""
        plain = self._in_case(text)
        if not self._longer:
            return list(plain.replace(" ", BOUNDARY))
        words = plain.split()
        if self._pieces and _PIECE not in text:
            words = [f"{_PIECE}{word}" for word in words]
        # Word pieces bring their spaces along, and where | stands between phones it stands there already.
        bounded = BOUNDARY in self._ids and BOUNDARY not in words and not self._pieces
        symbols: list[str] = []
        for word in words:
            if symbols and bounded:
                symbols.append(BOUNDARY)
            symbols += self._parts(word)
        return symbols

    def _parts(self, word: str) -> list[str]:
        """Symbols of a word."""
        if word in self._ids:
            return [word]
        parts = self._pattern.findall(word)
        if self._apart and not self._ids.keys() >= set(parts):
            return [word]  # one phone that is not known, and not its letters
        return parts

    def _joined(self, symbols: Sequence[str]) -> str:
        """The text that these symbols are."""
        if self._apart:
            return " ".join(symbols)
        text = "".join(symbols).replace(BOUNDARY, " ")
        if self._pieces:
            text = text.replace(_PIECE, " ")
        return " ".join(text.split())

    def _in_case(self, text: str) -> str:
        plain = _plain(text)
        if self._upper == self._lower:  # an alphabet of both cases, or of a script that has none
            return plain
        if self._upper:
            return in_case(plain, "upper", self._turkish)
        return in_case(plain, "lower", self._turkish)


def in_case(text: str, case: Literal["upper", "lower"], turkish: bool = False) -> str:
    """A text in one case; with the dotted and the dotless i of Turkish and its relatives where they are meant."""
    if turkish:
        text = text.translate(_TURKISH[case])
    if case == "upper":
        return text.upper()
    return unicodedata.normalize("NFC", text.lower())


def _plain(text: str) -> str:
    """Composed characters, and one space for any white space between words."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _symbols_of_json(text: str) -> list[str]:
    """Symbols of a ``vocab.json``; none if it is no JSON."""
    if not text.lstrip().startswith("{"):
        return []
    try:
        vocabulary = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not vocabulary or not all(isinstance(number, int) for number in vocabulary.values()):
        raise UserError("alphabet: is JSON, but no vocab.json, which is {SYMBOL: NUMBER} throughout.")
    symbols = []
    for symbol in sorted(vocabulary, key=vocabulary.__getitem__):
        symbols.append(symbol.strip() or BOUNDARY)
    for blank in (*_BLANKS, ""):
        if blank in symbols:
            symbols.remove(blank)
            break
    return [blank or BLANK, *symbols]


def _symbols_of_lines(text: str) -> list[str]:
    symbols: list[str] = []
    counted: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if line == " ":
            words = [BOUNDARY]
        if words:
            symbols.append(" ".join(words))
        if len(words) > 1 and words[1].isdigit() and (len(words) == 2 or words[2].startswith("#fairseq")):
            counted.append(words[0])
    if counted and len(counted) == len(symbols):
        return [special for special in _FAIRSEQ_SPECIALS if special not in counted] + counted
    for symbol in symbols:
        if " " in symbol:
            raise UserError(f"alphabet: {symbol!r} holds a space; expected one symbol, or SYMBOL COUNT, on each line.")
    if not (symbols and _NAME.fullmatch(symbols[0])):
        symbols.insert(0, BLANK)
    return symbols
