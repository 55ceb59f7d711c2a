"""What is known about words when letters are decoded: an n-gram model, a list of words."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d2v.errors import UserError, how_to_install
from d2v.text_files import read_lines


class NGramModel:
    """A word n-gram model in ARPA format or KenLM's binary one, read by the package `kenlm`.

    Scores are logarithms to base 10, as KenLM gives them: published weights of language models multiply those.
    A word that the model does not know as it is spelled is looked up in lower and in upper case.

    Args:
        path: Of the model; an ARPA file may be compressed.

    Raises:
        UserError: There is no such file, it is no model, or the package is missing.
    """

    def __init__(self, path: str) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"model.decoder.language_model {path}: no such file; give an ARPA or KenLM binary file")
        try:
            import kenlm
        except ImportError as error:
            raise UserError(
                f"model.decoder.language_model {path}: reading it needs the package kenlm: {how_to_install('kenlm')} "
                "(it is compiled: that takes CMake and a C++ compiler)"
            ) from error
        self._kenlm: Any = kenlm
        try:
            config = kenlm.Config()
            config.show_progress = False
            config.arpa_complain = kenlm.ARPALoadComplain.NONE  # that a binary file loads faster
            self._model: Any = kenlm.Model(str(file), config)
        except (OSError, RuntimeError) as error:
            raise UserError(f"model.decoder.language_model {path}: no ARPA or KenLM file ({error})".strip()) from error

    def start(self) -> Any:
        """State at the beginning of a sentence."""
        state = self._kenlm.State()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """log10 of a word's probability after ``state``, and the state behind it."""
        behind = self._kenlm.State()
        return self._model.BaseScore(state, self._spelling(word), behind), behind

    def end(self, state: Any) -> float:
        """log10 of the probability that the sentence ends here."""
        return self._model.BaseScore(state, "</s>", self._kenlm.State())

    def _spelling(self, word: str) -> str:
        for form in (word, word.lower(), word.upper()):
            if form in self._model:
                return form
        return word


class Lexicon:
    """Words that may occur; tells which letters can follow the beginning of one.

    Args:
        words: In the letters of the alphabet.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = set(words) - {""}
        if not self._words:
            raise UserError("model.decoder.lexicon: holds no words")
        self._beginnings: set[str] = set()
        for word in self._words:
            self._beginnings.update(word[:length] for length in range(1, len(word) + 1))
        self._following: dict[str, np.ndarray] = {}

    @classmethod
    def from_file(cls, path: str, letters: Iterable[str]) -> "Lexicon":
        """One word a line; what follows it on the line (a spelling, as in flashlight's lexicons) is left out.

        Where the alphabet lacks letters of a word, its other case is taken, or else the word is left out.

        Raises:
            UserError: It cannot be read, or holds no word of these letters.
        """
        spelled = re.compile("|".join(map(re.escape, sorted(letters, key=len, reverse=True))))
        lines = read_lines(path, "model.decoder.lexicon")
        fitting = []
        for word in (line.split()[0] for line in lines if line.strip()):
            for spelling in (word, word.upper(), word.lower()):
                if not spelled.sub("", spelling):
                    fitting.append(spelling)
                    break
        try:
            return cls(fitting)
        except UserError as error:
            raise UserError(f"model.decoder.lexicon {path}: holds no word in the letters of the alphabet") from error

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def following(self, beginning: str, letters: tuple[str, ...]) -> np.ndarray:
        """Which of ``letters`` (the same at each call) can follow the beginning of a word; bool [A]."""
        if beginning not in self._following:
            self._following[beginning] = np.array([beginning + letter in self._beginnings for letter in letters])
        return self._following[beginning]
