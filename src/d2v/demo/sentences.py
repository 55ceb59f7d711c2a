"""Sentences of a small grammar for the speech demo, 4 to 8 words of a vocabulary of about 90."""

import numpy as np

from d2v.errors import UserError

DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")

# A word in angle brackets stands for one of its choices.
_WORDS = {
    "<who>": "SHIP, HORSE, KING, TEACHER, DOCTOR, CHILD, SAILOR, FARMER, DOG, QUEEN, BIRD, WOMAN",
    "<it>": "HE, SHE, WE, THEY",
    "<how>": "RED, OLD, YOUNG, SMALL, GREEN, QUIET, TALL, DARK, BRAVE, HAPPY",
    "<did>": "SAW, FOUND, LEFT, LIKED, PAINTED, FOLLOWED, REACHED, WATCHED, PASSED, CROSSED",
    "<was>": "WAITED, SLEPT, SANG, WALKED, STOOD, PLAYED, STAYED",
    "<what>": "HARBOUR, GARDEN, BRIDGE, RIVER, HOUSE, WINDOW, BOAT, TABLE, MARKET, MOUNTAIN, ROAD, TOWER",
    "<where>": "NEAR, BEHIND, UNDER, BY",
    "<when>": "TODAY, YESTERDAY, AGAIN, AT NIGHT, IN WINTER, BEFORE NOON" + 6 * ", AT <digit>",
    "<digit>": ", ".join(DIGITS),
}
_CHOICES = {name: words.split(", ") for name, words in _WORDS.items()}
_PATTERNS = (
    "THE <how> <who> <did> THE <what> <when>",
    "THE <who> <did> THE <how> <what> <when>",
    "THE <who> <was> <where> THE <what>",
    "THE <who> <was> <where> THE <how> <what>",
    "THE <how> <who> <was> IN ROOM <digit>",
    "<it> <did> THE <what> <when>",
    "<it> <was> <where> THE <how> <what> <when>",
    "THE <who> AND THE <who> <did> THE <what>",
)
_MOST = 20_000


def write_sentences(count: int, seed: int) -> list[str]:
    """Sentences in upper case without punctuation, as LibriSpeech's transcripts are; all different, always the same.

    Raises:
        UserError: the grammar does not have so many sentences that differ enough.
    """
    if count > _MOST:
        raise UserError(
            f"the demo's grammar has {_MOST:,} sentences that differ enough, and no {count:,}; ask for fewer"
        )
    generator = np.random.default_rng([seed, 0])
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        words = str(generator.choice(_PATTERNS))
        while "<" in words:
            start, stop = words.index("<"), words.index(">") + 1
            words = words[:start] + str(generator.choice(_CHOICES[words[start:stop]])) + words[stop:]
        sentences[words] = None
    return list(sentences)


def vocabulary() -> set[str]:
    """Every word that can occur in a sentence."""
    everything = " ".join([*_PATTERNS, *_WORDS.values()]).replace(",", "")
    return {word for word in everything.split() if not word.startswith("<")}
