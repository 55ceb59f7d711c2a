"""Words with times, the segments of subtitles, and both as JSON, SRT and WebVTT."""

import html
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from d2v.data.alphabet import BOUNDARY, Alphabet
from d2v.finetuning.alignment import Span

# Habits of subtitles: two lines of 42 characters, at most 7 seconds, a new one after a pause.
_LINE = 42
_LONGEST = 2 * _LINE
_SECONDS = 7.0
_PAUSE = 0.8
# Thai, Lao, Burmese, Khmer, kana and Chinese characters: words are not written apart, so each character is timed.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Word:
    """A word and when it was said."""

    text: str
    start: float
    """Seconds."""
    end: float
    confidence: float
    """Mean probability of its symbols, 0 to 1."""
    is_apart: bool = True
    """Whether a space stands before it."""


def words_of(spans: Sequence[Span], alphabet: Alphabet, stride: float, receptive_field: float) -> list[Word]:
    """Put symbols together to words.

    A frame stands for one stride around the centre of the samples that it is computed from.

    Args:
        spans: of the symbols of a text, in their order.
        alphabet: of the symbols.
        stride: seconds from one frame to the next.
        receptive_field: seconds that a frame is computed from.
    """
    groups: list[list[Span]] = []
    apart: list[bool] = []
    ends_word, last = True, None
    for span in spans:
        symbol = span.symbol
        if alphabet.symbols[symbol] == BOUNDARY:
            ends_word = True
        elif text := alphabet.decode([symbol]):
            if last is not None and " " in alphabet.decode([last, symbol]):
                ends_word = True  # phones, and pieces that begin a word
            if ends_word or _UNSPACED.match(text):
                groups.append([])
                apart.append(ends_word)
            groups[-1].append(span)
            ends_word, last = False, symbol
    shift = (receptive_field - stride) / 2
    words = []
    for group, is_apart in zip(groups, apart, strict=True):
        text = alphabet.decode([span.symbol for span in group])
        start, end = group[0].start * stride + shift, group[-1].stop * stride + shift
        confidence = sum(span.confidence for span in group) / len(group)
        words.append(Word(text, round(start, 3), round(end, 3), round(confidence, 4), is_apart))
    return words


def segments_of(words: Sequence[Word]) -> list[list[Word]]:
    """Cut a text where a subtitle ends: at pauses, and before it has more than 84 characters or lasts over 7 s."""
    segments: list[list[Word]] = []
    for word in words:
        if segments:
            current = segments[-1]
            pause = word.start - current[-1].end > _PAUSE
            long = len(text_of([*current, word])) > _LONGEST or word.end - current[0].start > _SECONDS
        if not segments or pause or long:
            segments.append([])
        segments[-1].append(word)
    return segments


def text_of(words: Sequence[Word]) -> str:
    """The words as one text."""
    return "".join(" " * word.is_apart + word.text for word in words).strip()


def to_json(words: Sequence[Word]) -> str:
    """Text, segments and words, under the names that Whisper gives them."""
    segments = []
    for segment in segments_of(words):
        entries = []
        for word in segment:
            entries.append({"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence})
        text = text_of(segment)
        segments.append({"start": segment[0].start, "end": segment[-1].end, "text": text, "words": entries})
    return json.dumps({"text": text_of(words), "segments": segments}, ensure_ascii=False, indent=1) + "\n"


def to_srt(words: Sequence[Word]) -> str:
    """SubRip."""
    cues = []
    for number, segment in enumerate(segments_of(words), 1):
        cues.append(f"{number}\n{_times(segment, ',')}\n{_lines(segment)}\n")
    return "\n".join(cues)


def to_vtt(words: Sequence[Word]) -> str:
    """WebVTT."""
    cues = ["WEBVTT\n"]
    for segment in segments_of(words):
        cues.append(f"{_times(segment, '.')}\n{html.escape(_lines(segment), quote=False)}\n")
    return "\n".join(cues)


def _lines(segment: Sequence[Word]) -> str:
    return "\n".join(textwrap.wrap(text_of(segment), _LINE))


def _times(segment: Sequence[Word], mark: str) -> str:
    clocks = []
    for seconds in (segment[0].start, segment[-1].end):
        whole, milliseconds = divmod(round(seconds * 1000), 1000)
        minutes, second = divmod(whole, 60)
        clocks.append(f"{minutes // 60:02}:{minutes % 60:02}:{second:02}{mark}{milliseconds:03}")
    return " --> ".join(clocks)


FORMATS = {"json": to_json, "srt": to_srt, "vtt": to_vtt}
