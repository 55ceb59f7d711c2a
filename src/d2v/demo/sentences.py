"""Sentences of small grammars: for the speech demo, 4 to 8 words of a vocabulary of about 90; others count things."""

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

# Sentences that count things; of one thing the "s" in front of "_" is left out.
_COUNTS = (
    "there are <digit> <where>",
    "we counted <digit> <where>",
    "my brother has <digit> <where>",
    "you can see <digit> <where>",
    "they left <digit> <where>",
)
_THINGS = "boats, horses, chairs, letters, apples, windows, ducks, lamps, stones, tickets, ladders, drums"
_PLACES = (
    "in the harbour, on the hill, behind the school, near the station, at the market, under the bridge, in the "
    "kitchen, by the river, on the table, in the old barn"
)


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
        sentences[_fill(str(generator.choice(_PATTERNS)), _CHOICES, generator)] = None
    return list(sentences)


def write_counts(split: str, count: int, seed: int) -> list[str]:
    """Sentences in lower case with one number, which is zero to nine in turn; all different, always the same.

    What the split "val" counts in a place, "train" never does there.

    Raises:
        UserError: the grammar does not have so many sentences.
    """
    where = []
    for number, thing in enumerate(_THINGS.split(", ")):
        for other, place in enumerate(_PLACES.split(", ")):
            if ((number + other) % 4 == 0) == (split == "val"):
                where.append(f"{thing}_ {place}")
    most = len(DIGITS) * len(_COUNTS) * len(where) // 2  # so that one that is new is soon found
    if count > most:
        raise UserError(f"the demo's grammar has {most:,} sentences that count things, and no {count:,}")
    generator = np.random.default_rng([seed, 2, len(where)])
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        digit = DIGITS[len(sentences) % len(DIGITS)].lower()
        choices = {"<digit>": [digit], "<where>": where}
        words = _fill(str(generator.choice(_COUNTS)), choices, generator)
        if digit == "one":
            words = words.replace(" are ", " is ").replace("s_", "")
        sentences[words.replace("_", "")] = None
    return list(sentences)


def _fill(words: str, choices: dict[str, list[str]], generator: np.random.Generator) -> str:
    """Put one of its choices for each word in angle brackets."""
    while "<" in words:
        start, stop = words.index("<"), words.index(">") + 1
        words = words[:start] + str(generator.choice(choices[words[start:stop]])) + words[stop:]
    return words


def vocabulary() -> set[str]:
    """Every word that can occur in a sentence."""
    everything = " ".join([*_PATTERNS, *_WORDS.values()]).replace(",", "")
    return {word for word in everything.split() if not word.startswith("<")}
