"""Special tokens of a ``tokenizer.json``: what they are called, and how their names in a text become plain text."""

import itertools
from typing import Any

NAMES = {
    "bos": ("<s>", "[CLS]"),
    "pad": ("<pad>", "[PAD]"),
    "eos": ("</s>", "[SEP]"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}
"""RoBERTa's names, and BERT's."""

HIDDEN = "\ufdd0" * 4
"""Ends the hidden name of a special token; Unicode keeps this character out of all text that is exchanged."""


def hide_special_tokens(content: dict[str, Any]) -> None:
    """Give each special token a name that no text has, so that its usual name in a text is encoded like any word.

    The library leaves special tokens that were added to a vocabulary alone if it is told so, but many models (Unigram,
    WordLevel, BPE that ignores its merges, ...) would still find them as types. Ids stay, and so do added tokens that
    are not special, which are meant to be found in a text.

    Args:
        content: Of a ``tokenizer.json``; changed in place.
    """
    model, added = content["model"], content.get("added_tokens") or []
    special = set(itertools.chain(*NAMES.values()))
    special.update(token["content"] for token in added if token["special"])
    for token in added:
        if token["content"] in special:
            token["content"] += HIDDEN
            token["special"] = True
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: each type with its score
        for entry in vocab:
            if entry[0] in special:
                entry[0] += HIDDEN
    else:
        for name in special.intersection(vocab):
            vocab[name + HIDDEN] = vocab.pop(name)
    if model.get("unk_token") in special:
        model["unk_token"] += HIDDEN
    if "merges" in model:
        model["merges"] = _without(special, model["merges"], model.get("continuing_subword_prefix") or "")


def _without(special: set[str], merges: list[Any], prefix: str) -> list[Any]:
    """The merges of a BPE without those that take or make a special token."""
    kept = []
    for merge in merges:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge  # older files have a string
        if special.isdisjoint((left, right, left + right.removeprefix(prefix))):
            kept.append(merge)
    return kept
