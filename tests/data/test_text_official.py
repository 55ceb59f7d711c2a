"""The tokens of a small text, derived by hand from fairseq's steps, in both break modes.

``multiprocessing_bpe_encoder.py --keep-empty`` strips each line; ``fairseq-preprocess --only-source`` ends each, also
an empty one, with ``</s>``; ``TokenBlockDataset`` cuts the stream (``none``) or leaves empty sentences out and joins
whole sentences (``complete_doc``); ``PrependTokenDataset`` puts ``<s>`` before a block.
"""

from pathlib import Path

import pytest

from d2v.modalities.text.corpus.blocks import EvenBlocks, sentence_blocks
from d2v.modalities.text.corpus.preparation import prepare_corpus
from d2v.modalities.text.corpus.shards import Shards
from d2v.modalities.text.tokenizer import TextTokenizer

TEXT = b" \n  one two  three \r\n\tfour\r\n\r\n\n \nfive six seven\neight\n\nnine ten eleven twelve"
SENTENCES = ["", "one two  three", "four", "", "", "", "five six seven", "eight", "", "nine ten eleven twelve"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("official")
    (folder / "a.txt").write_bytes(TEXT)
    prepare_corpus([str(folder / "a.txt")], folder / "shards", vocab_size=260, val_fraction=0.0, num_workers=1)
    found = Shards.open(folder / "shards", "train")
    assert found is not None
    return found


def ids_of(tokenizer: TextTokenizer, sentences: list[str]) -> list[int]:
    ids: list[int] = []
    for sentence in sentences:
        ids += [*tokenizer.encode(sentence), tokenizer.eos_id]
    return ids


def test_the_stream_is_fairseqs(shards: Shards) -> None:
    expected = ids_of(shards.tokenizer, SENTENCES)
    assert shards.read(0, shards.num_tokens).tolist() == expected
    blocks = EvenBlocks(shards.num_tokens, 20)
    rows = [shards.read(*blocks.span(index)).tolist() for index in range(len(blocks))]
    assert rows == [expected[start : start + 19] for start in range(0, len(expected), 19)][: len(rows)]
    assert len(expected) - 19 * len(rows) < 7


@pytest.mark.parametrize(
    ("block_size", "documents"),
    [
        (64, [["one two  three", "four"], ["five six seven", "eight"], ["nine ten eleven twelve"]]),
        (17, [["one two  three"], ["five six seven"], ["nine ten eleven twelve"]]),  # "four" and "eight" are too short
    ],
)
def test_blocks_of_whole_sentences_are_fairseqs(
    shards: Shards, block_size: int, documents: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    blocks = sentence_blocks(shards, block_size)
    rows = [shards.read(*blocks.span(index)).tolist() for index in range(len(blocks))]
    expected = [ids_of(shards.tokenizer, sentences) for sentences in documents]
    if block_size == 17:  # the last sentence is longer than a block, and is cut here
        *expected, last = expected
        expected += [part for part in (last[:16], last[16:]) if len(part) >= 7]
    assert rows == expected
