"""Decoding: beam search against all alignments, greedy, words and language models."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from d2v.data.alphabet import Alphabet
from d2v.errors import UserError
from d2v.finetuning.decoders import BeamSearchDecoder, GreedyDecoder, collapse
from d2v.finetuning.language_model import Lexicon, NGramModel

LETTERS = Alphabet(["<blank>", "|", "a", "b"])


def random_frames(seed: int, frames: int, symbols: int, sharpness: float = 1.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(frames, symbols)) * sharpness
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def peaked(symbols: list[int], size: int, share: float = 0.9) -> np.ndarray:
    probabilities = np.full((len(symbols), size), (1 - share) / (size - 1))
    probabilities[np.arange(len(symbols)), symbols] = share
    return np.log(probabilities)


def best_of_all_alignments(log_probs: np.ndarray) -> tuple[tuple[int, ...], float, float]:
    """The most probable sequence of symbols, its probability and the runner-up's, by summing over every alignment."""
    frames, symbols = log_probs.shape
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(symbols), repeat=frames):
        text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)
        sums[text] = sums.get(text, 0.0) + math.exp(sum(log_probs[t, s] for t, s in enumerate(path)))
    (best, p), *others = sorted(sums.items(), key=lambda item: -item[1])
    return best, p, others[0][1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 4), st.floats(0.1, 4.0))
def test_beam_search_finds_the_best_text_over_all_alignments(seed, frames, symbols, sharpness):
    log_probs = random_frames(seed, frames, symbols, sharpness)
    best, p, second = best_of_all_alignments(log_probs)
    found = BeamSearchDecoder(beam_size=1000).search(log_probs, Alphabet(LETTERS.symbols[:symbols]))
    assert tuple(found) == best or p - second < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_where_one_symbol_dominates_every_frame_a_beam_of_one_is_greedy(symbols):
    log_probs = peaked(symbols, 4)
    assert BeamSearchDecoder(beam_size=1).search(log_probs, LETTERS) == collapse(np.array(symbols))
    assert BeamSearchDecoder(beam_size=1).decode(log_probs, LETTERS) == GreedyDecoder().decode(log_probs, LETTERS)


def test_beam_search_adds_alignments_where_greedy_does_not():
    # Of two frames, blank is the best symbol of each (0.4), but "a" has 3 of its alignments: 0.35 * (0.35 + 2 * 0.4).
    log_probs = np.log([[0.4, 0.01, 0.35, 0.24]] * 2)
    assert GreedyDecoder().decode(log_probs, LETTERS) == ""
    assert BeamSearchDecoder().decode(log_probs, LETTERS) == "a"


@pytest.mark.parametrize("decoder", [GreedyDecoder(), BeamSearchDecoder()])
def test_repetitions_blanks_and_boundaries(decoder):
    frames = [0, 2, 2, 0, 2, 3, 3, 1, 1, 0, 3, 0, 1]
    assert decoder.decode(peaked(frames, 4), LETTERS) == "aab b"
    assert decoder.decode(np.zeros((0, 4)), LETTERS) == ""
    assert decoder.decode(peaked([0, 0], 4), LETTERS) == ""
    assert decoder.decode(np.where(np.eye(4)[frames] > 0, 0.0, -np.inf), LETTERS) == "aab b"  # nothing else possible


def test_a_wider_beam_finds_more_probable_texts():
    """By the true probability of what is found (torch's CTC loss), in the mean over noisy clips."""
    costs = {1: 0.0, 8: 0.0, 200: 0.0}
    for seed in range(10):
        log_probs = random_frames(seed, 30, 4, 2.0)
        for size in costs:
            text = BeamSearchDecoder(size).search(log_probs, LETTERS)
            frames = torch.tensor(log_probs)[:, None]
            costs[size] += float(F.ctc_loss(frames, torch.tensor([text]), [30], [len(text)], reduction="sum"))
    assert costs[1] > costs[8] > costs[200] - 1e-9


def test_a_lexicon_admits_its_words_only(tmp_path: Path):
    (tmp_path / "words.txt").write_text("ab a b |\nba b a |\n\nxyz\n")
    decoder = BeamSearchDecoder(200, lexicon=str(tmp_path / "words.txt"))
    assert decoder.decode(peaked([2, 3, 1, 3, 2, 1], 4), LETTERS) == "ab ba"
    for seed in range(20):
        text = decoder.decode(random_frames(seed, 12, 4, 2.0), LETTERS)
        assert set(text.split()) <= {"ab", "ba"}, text
    # "a" alone is no word: the nearest text that is one wins, though less probable by letters.
    assert decoder.decode(np.log([[0.1, 0.05, 0.8, 0.05], [0.5, 0.05, 0.05, 0.4]]), LETTERS) == "ab"


def test_a_lexicon_admits_boundaries_before_and_between_words(tmp_path: Path):
    (tmp_path / "words.txt").write_text("ab\n")
    decoder = BeamSearchDecoder(lexicon=str(tmp_path / "words.txt"))
    symbols = [1, 2, 3, 1, 0, 1, 2, 3]
    certain = np.where(np.eye(4)[symbols] > 0, 0.0, -np.inf)
    assert decoder.search(certain, LETTERS) == [1, 2, 3, 1, 1, 2, 3]
    assert decoder.decode(certain, LETTERS) == "ab ab"


def test_a_lexicon_follows_the_case_of_the_alphabet(tmp_path: Path):
    (tmp_path / "words.txt").write_text("AB\nBA\n")
    lexicon = Lexicon.from_file(str(tmp_path / "words.txt"), LETTERS.symbols[1:])
    assert "ab" in lexicon
    assert "abb" not in lexicon
    assert lexicon.following("a", LETTERS.symbols[1:]).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [("xyz\n", "holds no word in the letters of the alphabet"), ("\n", "holds no word"), (None, "not readable")],
)
def test_a_bad_lexicon_is_named(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "words.txt").write_text(content)
    with pytest.raises(UserError, match=rf"model\.decoder\.lexicon .*words\.txt: {message}"):
        BeamSearchDecoder(lexicon=str(tmp_path / "words.txt")).decode(peaked([2], 4), LETTERS)


def test_bad_settings_are_named():
    with pytest.raises(UserError, match=r"model\.decoder\.beam_size is 0"):
        BeamSearchDecoder(beam_size=0)
    with pytest.raises(UserError, match=r"model\.decoder\.language_model nowhere: no such file"):
        BeamSearchDecoder(language_model="nowhere")


def test_a_missing_kenlm_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    (tmp_path / "lm.arpa").write_text(ARPA)
    with pytest.raises(UserError, match=r"pip install 'kenlm>="):
        BeamSearchDecoder(language_model=str(tmp_path / "lm.arpa"))


# Bigrams of two words, in capitals; "ab ab" is rare and "ba ab" is frequent.
ARPA = """
\\data\\
ngram 1=5
ngram 2=5

\\1-grams:
-2.0\t<unk>
0\t<s>\t-0.3
-1.0\t</s>
-0.6\tAB\t-0.3
-0.6\tBA\t-0.3

\\2-grams:
-0.3\t<s> AB
-0.3\t<s> BA
-2.5\tAB AB
-0.1\tBA AB
-0.2\tAB </s>

\\end\\
"""


@pytest.fixture
def language_model(tmp_path: Path) -> str:
    pytest.importorskip("kenlm")
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return str(path)


def test_a_language_model_gives_logarithms_to_base_ten_and_finds_the_other_case(language_model: str):
    """As flashlight's does, so that published weights fit."""
    model = NGramModel(language_model)
    score, behind = model.score(model.start(), "ba")
    assert score == pytest.approx(-0.3, rel=1e-5)
    score, behind = model.score(behind, "ab")
    assert score == pytest.approx(-0.1, rel=1e-5)
    assert model.end(behind) == pytest.approx(-0.2, rel=1e-5)
    assert model.score(model.start(), "xx")[0] == pytest.approx(-2.0 - 0.3, rel=1e-5)


def test_a_language_model_decides_where_the_sound_does_not(language_model: str):
    # First word: "ab" rather than "ba" by ear; the second is clearly "ab".
    first = [[0.05, 0.05, 0.6, 0.3], [0.05, 0.05, 0.3, 0.6]]
    frames = np.log([*first, [0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05], [0.05, 0.05, 0.05, 0.85]])
    assert BeamSearchDecoder().decode(frames, LETTERS) == "ab ab"
    assert BeamSearchDecoder(language_model=language_model).decode(frames, LETTERS) == "ba ab"
    assert BeamSearchDecoder(language_model=language_model, lm_weight=0.0).decode(frames, LETTERS) == "ab ab"


@pytest.mark.parametrize("lexicon", [False, True])
def test_beam_search_with_a_language_model_against_brute_force(language_model: str, tmp_path: Path, lexicon: bool):
    """The best of all texts by ln p(letters) + weight * log10 p(words) + score * words, every alignment summed."""
    (tmp_path / "words.txt").write_text("ab\nba\na\n")
    model = NGramModel(language_model)
    weight, bonus = 1.3, -0.7
    decoder = BeamSearchDecoder(
        10**5, 1000.0, language_model, weight, bonus, str(tmp_path / "words.txt") if lexicon else None
    )
    for seed in range(6):
        log_probs = random_frames(seed, 5, 4, 2.0)
        sums: dict[tuple[int, ...], float] = {}
        for path in itertools.product(range(4), repeat=5):
            text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)
            sums[text] = sums.get(text, 0.0) + math.exp(sum(log_probs[t, s] for t, s in enumerate(path)))
        scores = {}
        for text, p in sums.items():
            spelled = "".join(LETTERS.symbols[i] for i in text)
            words = spelled.split("|")
            if lexicon and not all(word in ("ab", "ba", "a") for word in filter(None, words)):
                continue
            state, score = model.start(), math.log(p)
            for word in filter(None, words):
                gain, state = model.score(state, word)
                score += weight * gain + bonus
            scores[text] = score + weight * model.end(state)
        best = max(scores, key=lambda text: scores[text])
        assert tuple(decoder.search(log_probs, LETTERS)) == best, seed
