"""Byte-level BPE as a ``tokenizer.json``: trained on texts, or put together from a vocabulary and its merges.

A text is split into words by GPT-2's regular expression, each word is written with one character a byte, and the pair
of neighbours with the lowest rank is merged until none is left. Every text has ids, and every text comes back.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from d2v.errors import UserError

FIRST = ("<s>", "<pad>", "</s>", "<unk>")
"""The first ids, in fairseq's order."""

MASK = "<mask>"
SPECIAL = (*FIRST, MASK)

# Trained in excess: merges that spell a special token are taken out again.
_SPARE = 64


def train(texts: Iterable[str], vocab_size: int, progress: bool) -> str:
    """``tokenizer.json`` of a new BPE: <s> 0, <pad> 1, </s> 2, <unk> 3, the types, <mask>.

    Raises:
        UserError: ``vocab_size`` has no room for the bytes.
    """
    if vocab_size < 256:
        raise UserError(f"vocab_size {vocab_size}: the 256 bytes alone are types; give at least 256, such as 50260")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size + _SPARE,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    by_id = sorted(model["vocab"], key=model["vocab"].get)
    types, merges = _without_special(by_id[:256], [(a, b) for a, b in model["merges"]], vocab_size)
    names = [*FIRST, *types, MASK]
    return assemble({name: i for i, name in enumerate(names)}, merges)


def _without_special(
    characters: Sequence[str], merges: Sequence[tuple[str, str]], vocab_size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Types and merges without those that spell a special token, such as the ``<s>`` of HTML: it would get its id."""
    types = dict.fromkeys(characters)
    kept = []
    for left, right in merges:
        if left not in types or right not in types or left + right in SPECIAL:
            continue
        if left + right not in types:
            if len(types) == vocab_size:
                break
            types[left + right] = None
        kept.append((left, right))
    return list(types), kept


def assemble(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> str:
    """``tokenizer.json`` of a vocabulary and its merges, which `transformers` reads as well.

    Raises:
        ValueError: a merge names a type that is not in the vocabulary.
    """
    try:
        tokenizer = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges)))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(str(error)) from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    present = [name for name in SPECIAL if name in vocab]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in present])
    if "<s>" in vocab and "</s>" in vocab:
        # By position: the second argument has had two names.
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=False, add_prefix_space=False
        )
    return tokenizer.to_str()
