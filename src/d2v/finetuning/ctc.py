"""Recognition: letters from frames, by connectionist temporal classification (Graves et al. 2006)."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import MetricCollection
from torchmetrics.functional.text import word_error_rate
from torchmetrics.text import CharErrorRate, WordErrorRate

from d2v.checkpoints.head_files import StoredHead
from d2v.data.alphabet import BOUNDARY, Alphabet
from d2v.errors import UserError
from d2v.features.chunks import SAMPLE_RATE
from d2v.finetuning.alignment import align
from d2v.finetuning.captions import Word, words_of
from d2v.finetuning.decoders import BLANK, Decoder, GreedyDecoder
from d2v.finetuning.finetuning_module import FinetuningModule
from d2v.finetuning.starting_encoder import described
from d2v.nn.task_heads import CTCHead
from d2v.training.callbacks.log import is_logged
from d2v.training.optimizer import groups_with_rates
from d2v.types import Batch, Rows

PADDING = -100  # of letters in a batch


class CTCModule(FinetuningModule):
    """Trains an encoder to write letters.

    Outside of training, clips above ``chunk_seconds`` are recognised in overlapping chunks, so that memory does not
    grow with their length beyond the waveform itself. Texts are scored against the transcripts as the data give them,
    in the case of the head's letters; what the head cannot write is an error. A clip of silence has an empty text,
    which is scored like any other; a clip that cannot be read is not scored.

    Args:
        head_lr_scale: Learning rate of the head over that of the encoder. Pretrained frames can differ little from
            their mean, so that a new head, which starts small, has a long way to go (benchmarks/README.md).
        final_dropout: Of the encoder's output.
        decoder: How `d2v test` and `d2v predict` find the text; null: greedily, as validation does.
        chunk_seconds: Longest piece to encode at once outside of training; null: everything as a whole.
        times: `d2v predict` also writes when each word was said, into a file a recording: json, srt, vtt or all of
            them; null: the table alone.
        start: Arguments of :class:`FinetuningModule`.
    """

    stored_as: ClassVar[str] = "alphabet"
    tables: ClassVar[dict[str, str]] = {"test": "hypotheses.tsv", "predict": "transcripts.tsv"}

    def __init__(
        self,
        head_lr_scale: float = 1.0,
        final_dropout: float = 0.0,
        decoder: Decoder | None = None,
        chunk_seconds: float | None = 40.0,
        times: Literal["json", "srt", "vtt", "all"] | None = None,
        **start: Any,
    ) -> None:
        super().__init__(chunk_seconds=chunk_seconds, **start)
        if not 0 < head_lr_scale < float("inf"):
            raise UserError(f"model.head_lr_scale is {head_lr_scale}: it must be a number above 0.")
        self.head_lr_scale = head_lr_scale
        self.final_dropout = final_dropout
        self.times = times
        self.decoder = decoder or GreedyDecoder()
        self._greedy = GreedyDecoder()
        self._alphabet: Alphabet | None = None
        self._data_alphabet: Alphabet | None = None
        rates = {"wer": WordErrorRate(), "cer": CharErrorRate()}
        # No compute groups: after a batch whose words are single letters, both rates would be taken for one metric.
        self.val_metrics = MetricCollection(dict(rates), prefix="val/", compute_groups=False)
        self.test_metrics = MetricCollection(dict(rates), prefix="test/", compute_groups=False)
        self._seen, self._too_short = 0, torch.zeros((), dtype=torch.long)
        self._warned = False

    def make_head(self, num_outputs: int) -> nn.Module:
        return CTCHead(self.student.width, num_outputs, self.final_dropout)

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.head_lr_scale == 1:
            return super().parameter_groups()
        return groups_with_rates(self, {self.head: self.head_lr_scale}, self.weight_decay_on)

    def names_in_data(self, datamodule: Any) -> tuple[str, ...]:
        self._data_alphabet = getattr(datamodule, "alphabet", None)
        if self._data_alphabet is None:
            return ()
        return tuple(self._data_alphabet.symbols)

    def weights_from(self, head: StoredHead) -> tuple[Sequence[str], dict[str, Tensor]] | None:
        if head.task != "ctc" or head.names is None:
            return None
        return head.names, dict(head.weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["d2v"]["head"] |= {"task": "ctc", "pool": "none"}

    @property
    def alphabet(self) -> Alphabet:
        """What the head writes."""
        if self._alphabet is None or self._alphabet.symbols != self.names:
            self._alphabet = Alphabet(self.names)  # kept, since it warns of an unknown letter once
        return self._alphabet

    # Steps.

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of the transcripts, summed over letters, mean over clips (fairseq's sentence_avg)."""
        return self._ctc_loss(*self.log_probs(batch), self._letters(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        output = super().training_step(batch, batch_idx)
        if is_logged(self.trainer, self.trainer.global_step + 1):
            self._warn_of_short_clips()
        return output

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch, "val", self.val_metrics, self._greedy)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Rows]:
        """Scores a batch; its rows have the reference, the hypothesis and the clip's word error rate."""
        pairs = self._score(batch, "test", self.test_metrics, self.decoder)
        values = []
        for reference, text in pairs:
            rate = ""
            if reference:
                rate = f"{float(word_error_rate(text, reference)):.4f}"
            values.append((reference, text, rate))
        return {"rows": Rows(batch.sample_ids, ("reference", "hypothesis", "wer"), values, _notes(batch))}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Transcribes a batch; with ``times``, also the words of each clip (:class:`Word`), under ``words``."""
        values: list[tuple[str, ...]] = []
        words = []
        notes = _notes(batch)
        for clip, note in zip(_clips(*self._long_log_probs(batch)), notes, strict=True):
            symbols = [] if note else self.decoder.search(clip, self.alphabet)
            values.append((self.alphabet.decode(symbols),))
            if self.times is not None:
                words.append(self._words(clip, symbols))
        rows = Rows(batch.sample_ids, ("transcript",), values, notes)
        return {"rows": rows, "words": words}

    def on_validation_epoch_end(self) -> None:
        self._warn_of_short_clips()

    def on_test_epoch_end(self) -> None:
        self._warn_of_short_clips()

    def _score(self, batch: Batch, split: str, metrics: MetricCollection, decoder: Decoder) -> list[tuple[str, str]]:
        """Log loss and rates; references and texts."""
        log_probs, lengths = self._long_log_probs(batch)
        loss = self._ctc_loss(log_probs, lengths, self._letters(batch)).to(self.device)  # from the CPU if chunked
        self.log(f"{split}/loss", loss, batch_size=len(lengths), sync_dist=True, prog_bar=split == "val")
        references = [self.alphabet.written(text) for text in self._transcripts(batch)]
        pairs = []
        for reference, text, note in zip(
            references, self._texts(decoder, log_probs, lengths), _notes(batch), strict=True
        ):
            pairs.append((reference, "" if note else text))
        scored = [pair for pair, given in zip(pairs, self._given(batch), strict=True) if given is not None]
        if scored:
            metrics.update([text for _, text in scored], [reference for reference, _ in scored])
        self.log_dict(metrics, batch_size=len(lengths))
        return pairs

    def _ctc_loss(self, log_probs: Tensor, lengths: Tensor, letters: Tensor) -> Tensor:
        letters = letters.to(log_probs.device)
        self._seen += len(letters)
        # Counted on the device, which need not be waited for until a step that logs.
        self._too_short = self._too_short.to(letters.device) + (frames_needed(letters) > lengths).sum()
        return ctc_loss(log_probs, lengths, letters)

    def _warn_of_short_clips(self) -> None:
        if not self._warned and (count := int(self._too_short)):
            self._warned = True
            rank_zero_warn(
                f"data: {count:,} of the first {self._seen:,} clips are too short for their transcripts: they have no "
                "loss, and nothing is learned from them (a letter needs a frame, and so does the blank between two "
                "equal ones). See that the transcripts belong to the clips, and leave out those that do not fit"
            )

    # Frames.

    def log_probs(self, batch: Batch) -> tuple[Float[Tensor, "b n a"], Int64[Tensor, "b"]]:
        """Of each frame, and how many frames of each clip are no padding."""
        output = self.encode(batch)
        log_probs = self.head(output.tokens)
        if output.padding_mask is None:
            lengths = torch.full((log_probs.shape[0],), log_probs.shape[1], device=log_probs.device)
        else:
            lengths = (~output.padding_mask).sum(dim=1)
        return log_probs, lengths

    def _long_log_probs(self, batch: Batch) -> tuple[Float[Tensor, "b n a"], Int64[Tensor, "b"]]:
        """The same in bounded memory: of long clips chunk by chunk, and on the CPU then."""
        if not self.has_long_clips(batch):
            return self.log_probs(batch)
        clips = []
        for pieces in self.in_chunks(batch, lambda x: self.head(self.student(x).tokens)):
            clips.append(torch.cat([frames.cpu() for frames in pieces]))
        return pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])

    # Text.

    def _texts(self, decoder: Decoder, log_probs: Tensor, lengths: Tensor) -> list[str]:
        return [decoder.decode(clip, self.alphabet) for clip in _clips(log_probs, lengths)]

    def _words(self, log_probs: Float[np.ndarray, "n a"], symbols: list[int]) -> list[Word]:
        """When each word of a text was said."""
        boundary = None
        if BOUNDARY in self.names:
            boundary = self.names.index(BOUNDARY)
        front: Any = self.student.front
        stride, receptive_field = front.stride / SAMPLE_RATE, front.receptive_field / SAMPLE_RATE
        return words_of(align(log_probs, symbols, boundary), self.alphabet, stride, receptive_field)

    def _given(self, batch: Batch) -> list[str | None]:
        """Transcripts as the data give them; empty if they only give letters, None for a clip that cannot be read."""
        given = getattr(self.trainer.datamodule, "transcript", lambda sample_id: "")  # type: ignore[attr-defined]
        return list(map(given, batch.sample_ids.tolist()))

    def _transcripts(self, batch: Batch) -> list[str]:
        """As the data give them, if they do; else what is left of them in the letters of the data."""
        assert batch.labels is not None
        assert self._data_alphabet is not None
        texts = []
        for text, letters in zip(self._given(batch), batch.labels.cpu(), strict=True):
            texts.append(text or self._data_alphabet.decode(letters[letters != PADDING].tolist()))
        return texts

    def _letters(self, batch: Batch) -> Int64[Tensor, "b s"]:
        """The transcripts in the letters of the head, which the data may number otherwise."""
        assert batch.labels is not None
        if self._data_alphabet is None or tuple(self._data_alphabet.symbols) == self.names:
            return batch.labels
        rows = [torch.tensor(self.alphabet.encode(text), dtype=torch.long) for text in self._transcripts(batch)]
        return pad_sequence(rows, batch_first=True, padding_value=PADDING).to(batch.labels.device)

    def no_labels(self, stage: str) -> str:
        return f"data.labels: there are no transcripts, and `d2v {stage}` needs them; set data.labels to transcript"

    def other_names(self, found: Sequence[str]) -> str:
        return (
            f"data.alphabet: the transcripts give {described(found)}, the checkpoint writes {described(self.names)}; "
            "set data.alphabet to a file with the checkpoint's symbols, or give the data that it was trained on"
        )


def _clips(log_probs: Float[Tensor, "b n a"], lengths: Int64[Tensor, "b"]) -> Iterator[Float[np.ndarray, "n a"]]:
    """Each clip without its padding."""
    for clip, length in zip(log_probs.float().cpu().numpy(), lengths.tolist(), strict=True):
        yield clip[:length]


def _notes(batch: Batch) -> list[str]:
    """``silent`` for each clip all of whose values are equal, else nothing."""
    equal = (batch.inputs == batch.inputs[:, :1]).reshape(*batch.inputs.shape[:2], -1).all(dim=2)  # of cepstra, too
    if batch.padding_mask is not None:
        equal = equal | batch.padding_mask
    return list(map(("", "silent").__getitem__, equal.all(dim=1).tolist()))


def frames_needed(letters: Int64[Tensor, "b s"]) -> Int64[Tensor, "b"]:
    """One a letter, and a blank between two that are equal."""
    there = letters != PADDING
    return there.sum(dim=1) + (there[:, 1:] & (letters[:, 1:] == letters[:, :-1])).sum(dim=1)


def ctc_loss(
    log_probs: Float[Tensor, "b n a"], lengths: Int64[Tensor, "b"], letters: Int64[Tensor, "b s"]
) -> Float[Tensor, ""]:
    """Mean over clips; a clip with too few frames for its letters counts as zero and has no gradient."""
    letters = letters.to(log_probs.device)
    total = F.ctc_loss(
        log_probs.transpose(0, 1),
        letters.clamp(min=0),
        lengths,
        (letters != PADDING).sum(dim=1),
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return total / len(letters)
