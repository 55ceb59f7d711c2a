"""Words get the times at which they are said, whatever decoder wrote them, in files of three kinds."""

import itertools
import json
import re

import numpy as np
import pytest
import torch

from d2v.commands.caption_files import _different
from d2v.data.alphabet import Alphabet
from d2v.finetuning import alignment
from d2v.finetuning.alignment import Span, align
from d2v.finetuning.captions import Word, segments_of, text_of, to_json, to_srt, to_vtt, words_of
from d2v.finetuning.decoders import collapse

LETTERS = Alphabet(("<blank>", "|", "a", "b", "c"))
STRIDE, FIELD = 0.02, 0.03


def frames(path: str, probability: float = 0.9) -> np.ndarray:
    """Log-probabilities whose best symbols are these; - is the blank."""
    best = ["-|abc".index(symbol) for symbol in path]
    probs = np.full((len(best), 5), (1 - probability) / 4)
    probs[np.arange(len(best)), best] = probability
    return np.log(probs)


def random_frames(count: int, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(count, 5, generator=generator)).log_softmax(-1).numpy()


def words(path: str) -> list[Word]:
    log_probs = frames(path)
    return words_of(align(log_probs, collapse(log_probs.argmax(1)), 1), LETTERS, STRIDE, FIELD)


def test_frames_become_seconds_around_their_centres() -> None:
    found = words("--aa-b-||--c--")
    assert [word.text for word in found] == ["ab", "c"]
    # The centre of frame 2 lies 2 strides and half a field behind the start; half a stride before it the word begins.
    assert found[0].start == pytest.approx(2 * STRIDE + FIELD / 2 - STRIDE / 2, abs=1e-3)
    assert found[0].end == pytest.approx(5 * STRIDE + FIELD / 2 + STRIDE / 2, abs=1e-3)
    assert found[1].start == pytest.approx(11 * STRIDE + FIELD / 2 - STRIDE / 2, abs=1e-3)
    assert found[0].confidence == pytest.approx(0.9)


@pytest.mark.parametrize("seed", range(5))
def test_another_text_takes_its_most_probable_path(seed: int) -> None:
    log_probs, text = random_frames(7, seed), [2, 3, 3]
    best, score = None, -np.inf
    for path in itertools.product((0, 2, 3), repeat=7):
        value = log_probs[np.arange(7), path].sum()
        if collapse(np.array(path)) == text and value > score:
            best, score = np.array(path), value
    assert best is not None
    found = align(log_probs, text, 1)
    assert [span.symbol for span in found] == text
    for span in found:
        assert (best[span.start : span.stop] == span.symbol).all()
        assert span.confidence == pytest.approx(np.exp(log_probs[span.start : span.stop, span.symbol]).mean(), rel=1e-4)
    assert sum(span.stop - span.start for span in found) == (best != 0).sum()


def test_a_long_clip_in_pieces_is_aligned_as_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    path, text = "", []
    for number in range(60):
        word = "".join(generator.choice(list("abc"), 3))
        path += "".join(f"{letter}-" for letter in word) + "|--"
        if number % 7 == 3:
            word = "cab"  # what a language model would have written
        text += ["-|abc".index(letter) for letter in f"{word}|"]
    log_probs = frames(path, 0.6) + 0.1 * generator.standard_normal((len(path), 5))  # no two paths are equal
    whole = align(log_probs, text, 1)
    sizes = []
    best_path = alignment._best_path

    def spy(piece: np.ndarray, symbols: list[int]) -> np.ndarray:
        sizes.append(len(piece))
        return best_path(piece, symbols)

    monkeypatch.setattr(alignment, "_best_path", spy)
    monkeypatch.setattr(alignment, "_PIECE", 40)
    assert align(log_probs, text, 1) == whole
    assert max(sizes) < 100
    assert sum(sizes) == len(log_probs)


def test_pieces_too_short_for_their_text_are_aligned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_PIECE", 4)
    log_probs = frames("a|b|a|b|c|c-c-----------")
    text = [2, 1, 3, 1, 2, 1, 3, 1, *[2, 3] * 5, 1, 4]
    assert [span.symbol for span in align(log_probs, text, 1)] == text


@pytest.mark.parametrize("count", [1, 2, 40, 2_000])
def test_a_long_clip_that_has_nothing_in_common_with_its_text(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """An untrained model's greedy text, and what a beam makes of it, differ in all words."""
    monkeypatch.setattr(alignment, "_PIECE", 100)
    monkeypatch.setattr(alignment, "_LONGEST_PIECE", 300)
    log_probs = random_frames(4_000)
    text = np.random.default_rng(0).integers(2, 5, count).tolist()
    found = align(log_probs, text, 1)
    assert [span.symbol for span in found] == text
    places = [span.start for span in found]
    assert places == sorted(places)
    assert max(places) < 4_000
    repeated = [2] * 2_000  # needs a blank between each two, so that there is but one path
    places = [span.start for span in align(log_probs[:3_999], repeated, 1)]
    assert np.abs(np.array(places) - np.arange(0, 3_999, 2)).max() <= 1


def test_no_text_has_no_words_whatever_the_frames_say() -> None:
    assert align(random_frames(7_000), [], 1) == []


def test_too_few_frames_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 frames are too few for 3 symbols"):
        align(frames("abc"), [2, 2, 3], 1)


@pytest.mark.parametrize("text", ["", "a"])
def test_nothing_and_one_letter(text: str) -> None:
    found = words(f"---{text}---")
    assert [word.text for word in found] == list(text)
    assert json.loads(to_json(found))["text"] == text
    assert len(json.loads(to_json(found))["segments"]) == len(text)
    assert to_srt(found) == ("1\n00:00:00,065 --> 00:00:00,085\na\n" if text else "")
    assert to_vtt(found).startswith("WEBVTT\n")


def spans(*symbols: int) -> list[Span]:
    return [Span(symbol, 10 * place, 10 * place + 1, 0.5) for place, symbol in enumerate(symbols)]


def test_scripts_without_spaces_have_a_time_for_each_character() -> None:
    alphabet = Alphabet(("<blank>", "|", "こ", "ん", "ж", "ш", "<unk>"))
    found = words_of(spans(4, 6, 5, 1, 2, 3, 1, 1, 4), alphabet, STRIDE, FIELD)
    assert [word.text for word in found] == ["жш", "こ", "ん", "ж"]
    assert text_of(found) == "жш こん ж"
    assert json.loads(to_json(found))["text"] == "жш こん ж"


@pytest.mark.parametrize(
    ("symbols", "ids", "expected"),
    [
        (("<blank>", "sh", "iy", "t"), (1, 2, 3), ["sh", "iy", "t"]),  # phones
        (("<pad>", "\u2581the", "re", "\u2581a"), (1, 2, 3, 1), ["there", "a", "the"]),  # word pieces
        (("<blank>", "|", "sch", "a", "l"), (2, 3, 4, 1, 3, 4), ["schal", "al"]),  # symbols of several letters
    ],
)
def test_words_of_other_symbols_than_letters(symbols: tuple[str, ...], ids: tuple[int, ...], expected: list) -> None:
    alphabet = Alphabet(symbols)
    found = words_of(spans(*ids), alphabet, STRIDE, FIELD)
    assert [word.text for word in found] == expected
    assert text_of(found) == alphabet.decode(ids)


def timed(count: int, length: int, every: float) -> list[Word]:
    return [Word("x" * length, every * number, every * number + 0.2, 1.0) for number in range(count)]


def test_segments_end_at_pauses_and_stay_short() -> None:
    assert len(segments_of(timed(20, 3, 0.3))) == 1
    assert [len(segment) for segment in segments_of(timed(4, 3, 1.5))] == [1, 1, 1, 1]
    for words in (timed(100, 9, 0.21), timed(100, 1, 0.9), timed(3, 200, 0.21)):
        for segment in segments_of(words):
            assert len(segment) == 1 or len(text_of(segment)) <= 84
            assert segment[-1].end - segment[0].start <= 7
        assert list(itertools.chain.from_iterable(segments_of(words))) == words


def test_the_files() -> None:
    said = [Word("a<b", 0.5, 1.25, 0.75), Word("wide", 1.5, 2.0, 0.5), Word("late", 3661.0, 3661.5, 1.0)]
    assert to_srt(said) == ("1\n00:00:00,500 --> 00:00:02,000\na<b wide\n\n2\n01:01:01,000 --> 01:01:01,500\nlate\n")
    assert to_vtt(said) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\na&lt;b wide\n\n01:01:01.000 --> 01:01:01.500\nlate\n"
    )
    first = json.loads(to_json(said))["segments"][0]
    assert first["text"] == "a<b wide"
    assert (first["start"], first["end"]) == (0.5, 2.0)
    assert first["words"][1] == {"word": "wide", "start": 1.5, "end": 2.0, "confidence": 0.5}
    lines = to_srt(timed(16, 4, 0.21)).splitlines()[2:]
    assert max(map(len, lines)) <= 42
    assert re.fullmatch("[x ]+", lines[0])


def test_names_of_files_are_kept_apart() -> None:
    assert _different(["/r/a/x.wav", "/r/b/x.wav", "/r/b/y.flac"]) == ["a/x", "b/x", "b/y"]
    assert _different(["/r/x.wav", "/r/x.mp3", "/r/X.ogg", "/r/2.1 y.wav"]) == ["x.wav", "x.mp3", "X.ogg", "2.1 y"]
    assert _different(["/r/one.v2.wav"]) == ["one.v2"]
    assert _different(["/r/a.tar: b/c.wav", "/r/a.tar: d.wav"]) == ["a.tar: b/c", "a.tar: d"]
    assert _different(["/r/a.tar: b/../../../x.wav", "/r/a.tar: ../../d.wav"]) == ["x", "d"]
