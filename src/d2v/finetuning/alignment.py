"""When each symbol of a text was said: the most probable path of CTC through the frames that writes the text."""

from bisect import bisect_left
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64

from d2v.finetuning.decoders import BLANK

# Memory and time of the alignment grow with the square of the length, so long clips are cut where both texts agree.
_PIECE = 1_000  # frames
_LONGEST_PIECE = 3_000


class Span(NamedTuple):
    """One symbol on the path."""

    symbol: int
    start: int
    """Its first frame."""
    stop: int
    """The frame behind its last."""
    confidence: float
    """Mean probability of the symbol in these frames."""


def align(log_probs: Float[np.ndarray, "n a"], symbols: Sequence[int], boundary: int | None = None) -> list[Span]:
    """The spans of the symbols of a text, in their order.

    The path is the one that Viterbi's algorithm finds among all that write the symbols (Graves et al. 2006, section 4;
    Kürzinger et al. 2020). For the text of the greedy decoder, it is the best symbol of each frame. Clips of more than
    40 seconds are aligned in pieces of at least 20, which begin at words that the greedy path shares with the text;
    where it shares none for a minute, the text is spread evenly over pieces of a minute.

    Args:
        log_probs: natural logarithms, one column a symbol, the blank first.
        symbols: of the text, without blanks.
        boundary: the symbol between words; None: there is none, and each symbol counts as a word.

    Raises:
        ValueError: there are too few frames for the symbols.
    """
    heard = _spans(log_probs.argmax(axis=1), log_probs, 0)
    if [span.symbol for span in heard] == list(symbols):
        return heard
    ends = [(0, 0), (len(log_probs), len(symbols))]
    cuts = [ends[0], *_common_words(heard, symbols, boundary, len(log_probs)), ends[1]]
    for (frame, first), (next_frame, behind) in pairwise(cuts):
        if _frames_needed(symbols[first:behind]) > next_frame - frame:
            cuts = ends  # the text differs too much there, but as a whole it fits
            break
    spans: list[Span] = []
    for (frame, first), (next_frame, behind) in pairwise(_short_enough(cuts, symbols)):
        piece = log_probs[frame:next_frame]
        spans += _spans(_best_path(piece, symbols[first:behind]), piece, frame)
    return spans


def _best_path(log_probs: Float[np.ndarray, "n a"], symbols: Sequence[int]) -> Int64[np.ndarray, "n"]:
    """The symbol or blank of each frame."""
    from torchaudio.functional import forced_align

    if not symbols:
        return np.full(len(log_probs), BLANK)
    if _frames_needed(symbols) > len(log_probs):
        raise ValueError(f"{len(log_probs)} frames are too few for {len(symbols)} symbols")
    frames = torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None]
    path, _ = forced_align(frames, torch.tensor(symbols)[None], blank=BLANK)
    return path[0].numpy()


def _spans(path: Int64[np.ndarray, "n"], log_probs: Float[np.ndarray, "n a"], first_frame: int) -> list[Span]:
    borders = [0, *(np.flatnonzero(path[1:] != path[:-1]) + 1).tolist(), len(path)]
    spans = []
    for start, stop in pairwise(borders):
        if stop > start and path[start] != BLANK:
            symbol = int(path[start])
            probability = float(np.exp(log_probs[start:stop, symbol]).mean())
            spans.append(Span(symbol, first_frame + start, first_frame + stop, probability))
    return spans


def _frames_needed(symbols: Sequence[int]) -> int:
    """One a symbol, and a blank between two equal ones."""
    return len(symbols) + sum(a == b for a, b in pairwise(symbols))


def _common_words(
    heard: Sequence[Span], symbols: Sequence[int], boundary: int | None, num_frames: int
) -> list[tuple[int, int]]:
    """Frames and positions in ``symbols`` at which pieces begin: words of the greedy path that the text has, too."""
    cuts: list[tuple[int, int]] = []
    if num_frames <= 2 * _PIECE:
        return cuts
    said = [span.symbol for span in heard]
    said_starts, starts = _word_starts(said, boundary), _word_starts(symbols, boundary)
    matcher = SequenceMatcher(None, _words(said, said_starts), _words(symbols, starts), autojunk=False)
    last = 0
    for place, position, size in matcher.get_matching_blocks():
        for offset in range(1, size):  # the word before is common, too
            frame = heard[said_starts[place + offset]].start
            if last + _PIECE <= frame <= num_frames - _PIECE:
                cuts.append((frame, starts[position + offset]))
                last = frame
    return cuts


def _short_enough(cuts: Sequence[tuple[int, int]], symbols: Sequence[int]) -> list[tuple[int, int]]:
    """The same cuts, and further ones in long pieces, each of which gets its share of frames for its symbols."""
    more = [cuts[0]]
    for (frame, first), (next_frame, behind) in pairwise(cuts):
        size = next_frame - frame
        needed = [_frames_needed(symbols[first : first + 1])]
        for previous, symbol in pairwise(symbols[first:behind]):
            needed.append(needed[-1] + 1 + (symbol == previous))
        parts = size // _LONGEST_PIECE + 1
        for part in range(1, parts):
            position = bisect_left(needed, needed[-1] * part / parts)
            if 0 < needed[position] < needed[-1]:
                more.append((frame + size * needed[position] // needed[-1], first + position + 1))
        more.append((next_frame, behind))
    return more


def _word_starts(symbols: Sequence[int], boundary: int | None) -> list[int]:
    starts = []
    for position, symbol in enumerate(symbols):
        begins = boundary is None or position == 0 or symbols[position - 1] == boundary
        if begins and symbol != boundary:
            starts.append(position)
    return starts


def _words(symbols: Sequence[int], starts: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(symbols[start:stop]) for start, stop in pairwise([*starts, len(symbols)])]
