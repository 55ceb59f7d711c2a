"""Byte-level BPE as a ``tokenizer.json``: trained on texts, or made from a vocabulary and its merges.

A text is split into words by GPT-2's regular expression, each word is written with one character per byte, and the
neighbouring pair of the lowest rank is merged until no pair is left. Any text can be encoded and comes back unchanged.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from d2v.errors import UserError

FIRST = ("<s>", "<pad>", "</s>", "<unk>")
"""The first ids, in fairseq's order."""

MASK = "<mask>"
SPECIAL = (*FIRST, MASK)

# Types trained in excess, because merges that spell a special token are removed afterwards.
_SPARE = 64
_MOST_TYPES = 1_000_000  # the trainer makes room for all of them, and ends the process where there is none


def train(texts: Iterable[str], vocab_size: int, progress: bool) -> str:
    """The ``tokenizer.json`` of a new BPE: <s> 0, <pad> 1, </s> 2, <unk> 3, the types, <mask>.

    Raises:
        UserError: ``vocab_size`` is too small for the 256 bytes, or more than the trainer's memory holds.
    """
    if vocab_size < 256:
        raise UserError(f"vocab_size {vocab_size}: the 256 bytes alone are types; give at least 256, such as 50260")
    if vocab_size > _MOST_TYPES:
        raise UserError(f"vocab_size {vocab_size}: give at most {_MOST_TYPES:,}, such as 50260")
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
    types, merges = _without_special(by_id[:256], model["merges"], vocab_size)
    names = [*FIRST, *types, MASK]
    return assemble({name: i for i, name in enumerate(names)}, merges)


def _without_special(
    characters: Sequence[str], merges: Sequence[tuple[str, str]], vocab_size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Types and merges without those that spell a special token: HTML's ``<s>`` would get the id of the real one."""
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
    """The ``tokenizer.json`` of a vocabulary and its merges, which `transformers` reads as well.

    Raises:
        ValueError: a merge names a type that is not in the vocabulary.
    """
    try:
        tokenizer = Tokenizer(models.BPE(vocab=dict(vocab), merges=list(merges)))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(str(error)) from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for name in SPECIAL:
        if name in vocab:
            tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    if "<s>" in vocab and "</s>" in vocab:
        # By position, because the name of the second argument depends on the version of the library.
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), trim_offsets=False, add_prefix_space=False
        )
    return tokenizer.to_str()
