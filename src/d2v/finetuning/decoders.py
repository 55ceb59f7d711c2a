"""From the frames' log-probabilities of a CTC model to text: greedy, or by beam search over prefixes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from d2v.data.alphabet import BOUNDARY, Alphabet
from d2v.errors import UserError
from d2v.finetuning.language_model import Lexicon, NGramModel

BLANK = 0
_ROOT = np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class Decoder(ABC):
    """Turns frames into text."""

    @abstractmethod
    def search(self, log_probs: Float[np.ndarray, "n a"], alphabet: Alphabet) -> list[int]:
        """Symbols of one clip; ``log_probs`` are natural logarithms, one column a symbol, the blank first."""

    def decode(self, log_probs: Float[np.ndarray, "n a"], alphabet: Alphabet) -> str:
        """Text of one clip."""
        return alphabet.decode(self.search(log_probs, alphabet))


class GreedyDecoder(Decoder):
    """The best symbol of each frame; repetitions and blanks removed."""

    def search(self, log_probs: Float[np.ndarray, "n a"], alphabet: Alphabet) -> list[int]:
        return collapse(log_probs.argmax(axis=1))


class BeamSearchDecoder(Decoder):
    """Prefix beam search (Graves 2012, section 7.5; Hannun et al. 2014): the best text over all of its alignments.

    With a language model, a prefix's score is ``ln p(letters) + lm_weight * log10 p(words) + word_score * words``,
    where a word is scored when its boundary is written, and the last word and the end of the sentence at the end. The
    two logarithms differ, as in fairseq's decoder (flashlight's), so that its weights can be used: the Base models are
    published with a beam of 1,500, ``lm_weight`` 2 and ``word_score`` -1 with a 4-gram and a lexicon. (That decoder
    takes the best alignment of a prefix; this one their sum.)

    Args:
        beam_size: Prefixes that are kept after each frame.
        threshold: A prefix this much below the best (in natural logarithms) is dropped.
        language_model: Word n-grams: ARPA or KenLM binary file; null: none. Needs `pip install kenlm`.
        lm_weight: Of the language model's logarithms, which are to base 10 as KenLM gives them.
        word_score: Added for each word; below 0 it favours fewer words.
        lexicon: File of the words that may occur, one a line; null: any spelling.
    """

    def __init__(
        self,
        beam_size: int = 50,
        threshold: float = 25.0,
        language_model: str | None = None,
        lm_weight: float = 2.0,
        word_score: float = -1.0,
        lexicon: str | None = None,
    ) -> None:
        if beam_size < 1:
            raise UserError(f"model.decoder.beam_size is {beam_size}: it must be at least 1.")
        if threshold <= 0:
            raise UserError(f"model.decoder.threshold is {threshold}: it must be above 0.")
        self.beam_size = beam_size
        self.threshold = threshold
        self.lm_weight = lm_weight
        self.word_score = word_score
        self._model: NGramModel | None = None
        if language_model is not None:
            self._model = NGramModel(language_model)
        self._lexicon_file = lexicon
        self._words: _Words | None = None

    def search(self, log_probs: Float[np.ndarray, "n a"], alphabet: Alphabet) -> list[int]:
        symbols = tuple(alphabet.symbols)
        if self._words is None or self._words.symbols != symbols:
            lexicon = None
            if self._lexicon_file is not None:
                lexicon = Lexicon.from_file(self._lexicon_file, symbols[1:])
            self._words = _Words(symbols, self._model, self.lm_weight, self.word_score, lexicon)
        beam = _Beam(self._words)
        for frame in np.asarray(log_probs, dtype=np.float64):
            beam.step(frame, self.beam_size, self.threshold)
        return beam.best()


@dataclass(slots=True)
class _Prefix:
    """One text of the beam, as a chain: those that nothing in the beam grows out of are freed."""

    parent: "_Prefix | None"
    symbol: int
    word: str = ""  # what has been spelled since the last boundary
    state: Any = None  # of the language model, before that word
    behind: Any = None  # and behind it, once it is scored


@dataclass
class _Words:
    """What writing a boundary is worth, and which symbols may come next; without words to tell, nothing and all."""

    symbols: tuple[str, ...]
    model: NGramModel | None
    lm_weight: float
    word_score: float
    lexicon: Lexicon | None

    def __post_init__(self) -> None:
        self.boundary: int | None = None
        if BOUNDARY in self.symbols:
            self.boundary = self.symbols.index(BOUNDARY)

    def root(self) -> _Prefix:
        state = None
        if self.model is not None:
            state = self.model.start()
        return _Prefix(None, BLANK, state=state)

    def grow(self, prefix: _Prefix, symbol: int) -> _Prefix:
        if symbol != self.boundary:
            return _Prefix(prefix, symbol, prefix.word + self.symbols[symbol], prefix.state)
        return _Prefix(prefix, symbol, "", prefix.behind if prefix.word else prefix.state)

    def worth(self, prefix: _Prefix) -> float:
        """Gain in score if the word is finished here."""
        if not prefix.word or self.model is None or (self.lexicon is not None and prefix.word not in self.lexicon):
            return 0.0  # no word: a boundary is free, or not allowed
        score, prefix.behind = self.model.score(prefix.state, prefix.word)
        return self.lm_weight * score + self.word_score

    def worth_at_end(self, prefix: _Prefix) -> float:
        """Gain in score if the text ends here."""
        if self.lexicon is not None and prefix.word and prefix.word not in self.lexicon:
            return -np.inf
        if self.model is None:
            return 0.0
        worth = self.worth(prefix)
        return worth + self.lm_weight * self.model.end(prefix.behind if prefix.word else prefix.state)

    def allowed(self, prefix: _Prefix) -> np.ndarray:
        """Which symbols (without the blank) may follow; bool [A - 1]."""
        if self.lexicon is None:
            return np.ones(len(self.symbols) - 1, dtype=bool)
        allowed = self.lexicon.following(prefix.word, self.symbols[1:]).copy()
        if self.boundary is not None:
            allowed[self.boundary - 1] = not prefix.word or prefix.word in self.lexicon
        return allowed


class _Beam:
    """The best prefixes of all that can be grown so far; arrays over them have K entries.

    A prefix is known by a hash of its symbols, so that one that is reached in two ways is one prefix.
    """

    def __init__(self, words: _Words) -> None:
        self.words = words
        self.prefixes = [words.root()]
        self.keys = np.array([_ROOT])
        self.parents = np.array([0], dtype=np.uint64)
        self.last = np.array([BLANK])  # last symbol; the blank for the empty prefix alone
        self.blank = np.array([0.0])  # ln p of the prefix over alignments that end with a blank
        self.symbol = np.array([-np.inf])  # and over those that end with its last symbol
        self.bonus = np.array([0.0])  # what the words so far are worth
        self.worth = np.array([0.0])  # what finishing the word here would be worth
        self.allowed = words.allowed(self.prefixes[0])[None]  # [K, A - 1]

    def step(self, frame: np.ndarray, size: int, threshold: float) -> None:
        """Read one frame [A]."""
        total = np.logaddexp(self.blank, self.symbol)
        blank = total + frame[BLANK]
        symbol = self.symbol + frame[self.last]  # the last symbol is repeated and stays one
        grown = total[:, None] + frame[1:]  # [K, A - 1]
        row = np.flatnonzero(self.last)
        grown[row, self.last[row] - 1] = self.blank[row] + frame[self.last[row]]  # twice the symbol: a blank between

        # A prefix in the beam that grows out of another in the beam is one and the same prefix.
        order = self.keys.argsort()
        place = order[np.searchsorted(self.keys, self.parents, sorter=order).clip(max=len(order) - 1)]
        child = np.flatnonzero(self.keys[place] == self.parents)
        parent, column = place[child], self.last[child] - 1
        symbol[child] = np.logaddexp(symbol[child], grown[parent, column])
        grown[parent, column] = -np.inf

        score = grown + self.bonus[:, None]
        if self.words.boundary is not None:
            score[:, self.words.boundary - 1] += self.worth
        score[~self.allowed] = -np.inf
        scores = np.concatenate([np.logaddexp(blank, symbol) + self.bonus, score.ravel()])
        kept = np.flatnonzero(scores > scores.max() - threshold)
        if len(kept) > size:
            kept = kept[np.argpartition(-scores[kept], size - 1)[:size]]
        self._keep(kept, blank, symbol, grown)

    def best(self) -> list[int]:
        """Symbols of the best prefix at the end."""
        score = np.logaddexp(self.blank, self.symbol) + self.bonus
        at_end = score + [self.words.worth_at_end(prefix) for prefix in self.prefixes]
        if np.isfinite(at_end).any():  # else every text ends within a word
            score = at_end
        prefix: _Prefix | None = self.prefixes[int(score.argmax())]
        symbols = []
        while prefix is not None and prefix.parent is not None:
            symbols.append(prefix.symbol)
            prefix = prefix.parent
        return symbols[::-1]

    def _keep(self, kept: np.ndarray, blank: np.ndarray, symbol: np.ndarray, grown: np.ndarray) -> None:
        """Select the prefixes that go on: numbers below K stay as they are, the others grow."""
        size = len(self.prefixes)
        old, new = kept[kept < size], kept[kept >= size] - size
        parent, column = np.divmod(new, grown.shape[1])
        last = column + 1
        fresh = []
        for number, symbol_added in zip(parent.tolist(), last.tolist(), strict=True):
            fresh.append(self.words.grow(self.prefixes[number], symbol_added))
        bonus = self.bonus[parent] + np.where(last == self.words.boundary, self.worth[parent], 0.0)
        worth = np.array([self.words.worth(prefix) for prefix in fresh])
        allowed = [self.words.allowed(prefix)[None] for prefix in fresh]
        self.allowed = np.concatenate([self.allowed[old], *allowed])
        keys = (self.keys[parent] ^ (last.astype(np.uint64) * _GOLDEN)) * _MIX
        keys ^= keys >> np.uint64(32)
        self.prefixes = [self.prefixes[i] for i in old.tolist()] + fresh
        self.parents = np.concatenate([self.parents[old], self.keys[parent]])
        self.keys = np.concatenate([self.keys[old], keys])
        self.last = np.concatenate([self.last[old], last])
        self.blank = np.concatenate([blank[old], np.full(len(new), -np.inf)])
        self.symbol = np.concatenate([symbol[old], grown.ravel()[new]])
        self.bonus = np.concatenate([self.bonus[old], bonus])
        self.worth = np.concatenate([self.worth[old], worth])


def collapse(symbols: np.ndarray) -> list[int]:
    """One symbol for each run of equal ones; blanks left out."""
    if len(symbols) == 0:
        return []
    first = np.concatenate([[True], symbols[1:] != symbols[:-1]])
    return symbols[first & (symbols != BLANK)].tolist()
