"""Text for pretraining: blocks of a corpus that was prepared before, or is prepared once when training begins."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from d2v.data.broken_samples import SkippedSamples
from d2v.data.data_module import PretrainingDataModule, Split
from d2v.data.sampler import StreamSampler
from d2v.data.samples import Sample, SampleDataset, collate_samples
from d2v.errors import BrokenSample, UserError
from d2v.modalities.text.corpus.blocks import LEAST_TOKENS, Blocks, EvenBlocks, sentence_blocks
from d2v.modalities.text.corpus.preparation import open_shards, verify_once
from d2v.modalities.text.corpus.shards import Shards
from d2v.modalities.text.encoder_check import check_encoder
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_files import TOKENIZER
from d2v.model.encoder import Encoder
from d2v.model.masked_input import ReplaceTokens
from d2v.types import Batch


class _Split(NamedTuple):
    shards: Shards
    blocks: Blocks

    def name(self, index: int) -> str:
        start, stop = self.blocks.span(index)
        return f"tokens {start:,} to {stop:,} in {self.shards.folder}"


class TextDataset(SampleDataset):
    """Token ids int64 [N] that begin with ``<s>``.

    Nothing here is random. Worker processes are sent the names of the shards and the spans of the blocks, no tokens.

    Args:
        shards: the tokens of a split.
        blocks: where they are cut.
        skipped: counts unreadable blocks.
    """

    stages = {"read": ("d2v.modalities.text.corpus.shards.Shards.read",)}
    broken_for_good = False  # the disk may answer the next time

    def __init__(self, shards: Shards, blocks: Blocks, skipped: SkippedSamples) -> None:
        super().__init__(len(blocks), 0, skipped)
        self._shards, self._blocks = shards, blocks
        self._bos, self._vocabulary = shards.tokenizer.bos_id, len(shards.tokenizer)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each block, ``<s>`` included."""
        return self._blocks.lengths

    def lengths_of(self, indices: Sequence[int]) -> np.ndarray:
        return np.array([stop - start + 1 for start, stop in map(self._blocks.span, indices)])  # of a few, not of all

    def candidates(self, index: int) -> Iterator[int]:
        """A broken block is replaced by one that is no longer, so that the batch keeps to its number of tokens."""
        yield index
        lengths = self.lengths
        others = np.roll(np.arange(len(lengths)), -index)[1:]
        yield from others[lengths[others] <= lengths[index]].tolist()

    def load(self, index: int) -> tuple[Tensor, int | Tensor | None]:
        start, stop = self._blocks.span(index)
        ids = torch.empty(stop - start + 1, dtype=torch.int64)
        ids[0] = self._bos
        tokens = ids[1:].numpy()
        try:
            tokens[:] = self._shards.read(start, stop)
        except OSError as error:
            raise BrokenSample(error.strerror or str(error)) from error
        for token in (tokens.min(), tokens.max()):
            if not 0 <= token < self._vocabulary:  # on an accelerator the error would name no cause
                raise BrokenSample(f"it holds the id {token}, and the tokenizer has {self._vocabulary:,} ids")
        return ids, None


class TextDataModule(PretrainingDataModule):
    """Blocks of text, from the shards that `d2v prepare text` writes or from raw text, which is then prepared once.

    Args:
        root: folder of shards; or raw text: a file (text, JSON lines, csv, tsv, parquet), folder or glob.
        batch_size: tokens per device and micro-batch, padding included.
        block_size: tokens in a block, <s> included.
        break_mode: "none": the stream of all documents is cut into blocks of one length; "complete_doc": a block holds
            whole sentences (lines) of one document, as many as fit.
        tokenizer: tokenizer.json, or a folder with GPT-2's, fairseq's or Hugging Face's files; null: one is trained on
            raw text. Shards must have been made with it.
        vocab_size: types of the tokenizer that is trained on raw text.
        shards: folder for the shards made of raw text; null: one in the user's cache folder.
        val_fraction: share of the documents of raw text that is held out for validation.
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    unit = "tokens"
    values_per_unit = 1
    pads = True  # with "none" that is the last block alone

    def __init__(
        self,
        root: str,
        batch_size: int = 16_384,
        block_size: int = 512,
        break_mode: Literal["none", "complete_doc"] = "none",
        tokenizer: str | None = None,
        vocab_size: int = 50_260,
        shards: str | None = None,
        val_fraction: float = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(root, batch_size, **common)
        if block_size < LEAST_TOKENS:
            raise UserError(f"data.block_size is {block_size}: it must be at least {LEAST_TOKENS} tokens.")
        if break_mode not in ("none", "complete_doc"):
            raise UserError(f"data.break_mode is {break_mode}: it must be none or complete_doc.")
        if batch_size < block_size:
            raise UserError(
                f"data.batch_size {batch_size} (tokens) is below data.block_size {block_size}: a batch would not hold "
                f"a single block. Set data.batch_size to {block_size} or more, or lower data.block_size."
            )
        if break_mode == "none" and batch_size % block_size:
            below = batch_size // block_size * block_size
            raise UserError(
                f"data.batch_size {batch_size} (tokens) is not a multiple of data.block_size {block_size}. "
                f"Set data.batch_size to {below} or {below + block_size}, or data.break_mode to complete_doc."
            )
        if not 0 <= val_fraction <= 0.5:
            raise UserError(f"data.val_fraction is {val_fraction}: it must be between 0 and 0.5.")
        self.block_size, self.break_mode = block_size, break_mode
        self.val_fraction = val_fraction
        self._tokenizer, self._vocab_size, self._folder = tokenizer, vocab_size, shards

    def prepare_data(self) -> None:
        """In one process: prepare raw text, check the shards and cut blocks; the other processes find the results.

        Raises:
            UserError: a file of the shards was changed since it was written.
        """
        for shards in self._shards.values():
            verify_once(shards)
        _ = self.splits

    def setup(self, stage: str | None = None) -> None:
        """Also open the data, so that a wrong root is reported before anything runs."""
        super().setup(stage)
        _ = self.splits

    def adapt_to(self, encoder: Encoder) -> None:
        """Check that the encoder knows every token and every position, and give it the tokenizer.

        Raises:
            UserError: it does not, or it was trained with another tokenizer.
        """
        named = f"The tokenizer of data.root {self.root}"
        tokenizer = check_encoder(encoder, self.tokenizer, named, "data.block_size", self.block_size)
        hidden = encoder.front.masked_input
        if isinstance(hidden, ReplaceTokens) and tokenizer.mask_id != hidden.mask_id < len(tokenizer):
            raise UserError(
                f"The encoder hides tokens behind its last id {hidden.mask_id}, which is an ordinary type of the "
                f"tokenizer of data.root {self.root}. Set front.vocab_size to {len(tokenizer) + 1}."
            )
        known = encoder.assets.get(TOKENIZER)
        if known is not None and TextTokenizer.from_json(known).fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"The encoder was trained with another tokenizer than data.root {self.root} was prepared with. Prepare "
                "the text with the encoder's: data.tokenizer takes its folder or checkpoint."
            )
        encoder.assets[TOKENIZER] = tokenizer.to_json()

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that made the shards."""
        return self._shards["train"].tokenizer

    @functools.cached_property
    def splits(self) -> dict[str, _Split]:
        """The splits that have blocks, by name: "train", and perhaps "val"."""
        splits = {}
        for name, shards in self._shards.items():
            blocks = self._cut(shards)
            if len(blocks):
                splits[name] = _Split(shards, blocks)
        if "train" not in splits:
            raise UserError(
                f"data.root {self.root}: nothing to train on; no block of {LEAST_TOKENS} tokens or more can be made."
            )
        return splits

    @property
    def class_names(self) -> tuple[str, ...]:
        return ()

    def train_dataset(self) -> TextDataset:
        return self._dataset("train")

    def eval_dataset(self, split: Split) -> TextDataset | None:
        return self._dataset(split) if split in self.splits else None

    def train_sampler(self, dataset: SampleDataset) -> StreamSampler:
        """A stream of blocks of one length, or of batches whose blocks have about the same length."""
        if self.break_mode == "none":
            return self.stream(len(dataset), int(self.batch_size) // self.block_size)
        return super().train_sampler(dataset)

    @property
    def collate(self) -> Callable[[list[Sample]], Batch]:  # type: ignore[override]  # it needs the id of <pad>
        """Pad with ``<pad>`` to ids [B, N]."""
        return functools.partial(collate_samples, padding=self.tokenizer.pad_id)

    @functools.cached_property
    def _shards(self) -> dict[str, Shards]:
        return open_shards(self.root, self._tokenizer, self._vocab_size, self._folder, self.val_fraction)

    def _cut(self, shards: Shards) -> Blocks:
        if self.break_mode == "none":
            blocks: Blocks = EvenBlocks(shards.num_tokens, self.block_size)
        else:
            blocks = sentence_blocks(shards, self.block_size)
        left_out = ""
        if blocks.num_short:
            left_out = f"; left out: {blocks.num_short:,} shorter than {LEAST_TOKENS} tokens"
        rank_zero_info(
            f"data: {shards.split}: {len(blocks):,} blocks of at most {self.block_size} tokens, from "
            f"{shards.num_documents:,} documents with {shards.num_tokens:,} tokens{left_out}"
        )
        return blocks

    def _dataset(self, name: str) -> TextDataset:
        split = self.splits[name]
        skipped = self.skipped_samples(name, split.name, len(split.blocks))
        return TextDataset(split.shards, split.blocks, skipped)
