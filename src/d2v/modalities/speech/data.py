"""Speech and other sound for pretraining, fine-tuning and probing."""

import functools
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from d2v.data.alphabet import Alphabet
from d2v.data.batching import no_room
from d2v.data.data_module import require
from d2v.data.filter_banks import SHIFT, mfcc, normalised_mfcc
from d2v.data.sound.audio_reader import SAMPLE_RATE
from d2v.data.sound.clip_labels import require_transcripts
from d2v.data.sound.sound_module import SoundDataModule
from d2v.data.sound.transcripts import Case, Punctuation, clean, read_transcripts
from d2v.data.sound.waveforms import Prepare, unit_variance
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.types import Batch


class LibriSpeechDataModule(SoundDataModule):
    """Sound from LibriSpeech, manifests, folders, globs, parquet or tars, whichever ``root`` contains.

    Args:
        root: folder, fairseq manifest (.tsv), glob or file of sound; a data set of the hub, hf://OWNER/NAME; tars or
            parquet in a store, s3://BUCKET/FOLDER.
        batch_size: seconds of audio of one device and one micro-batch, padding included.
        min_seconds: shorter clips are not trained on.
        max_seconds: longer clips are cropped at random; with transcripts they are not trained on.
        max_eval_seconds: length to which longer clips are cut for validation and probes; null: never. Not with
            transcripts.
        labels: speaker, folder, label (of an archive), transcript, or a .tsv or .csv of files and labels; null: none.
        transcripts: table of files and their texts (TSV, CSV, JSON lines), for labels "transcript"; null: they stand
            beside the clips or in metadata.csv.
        file_column: heading or number (from 1) of its column of files; null: found by itself.
        text_column: likewise, of the texts.
        text_case: letters of all transcripts: keep, upper, lower, or upper_tr and lower_tr for Turkish.
        punctuation: of all transcripts: keep, or remove (letters with accents and apostrophes within words stay).
        alphabet: file with one symbol a line, fairseq's dict.txt or a vocab.json; null: characters of the training
            transcripts.
        normalize: scale each waveform, or each of its cepstra, to zero mean and unit variance.
        sound: What every DataModule of sound has; see :class:`SoundDataModule`.
    """

    unit = "audio_seconds"
    pads = True
    values_per_unit = SAMPLE_RATE

    def __init__(
        self,
        root: str | None = None,
        batch_size: float = 237.5,
        min_seconds: float = 2.0,
        max_seconds: float = 20.0,
        max_eval_seconds: float | None = None,
        labels: str | None = None,
        transcripts: str | None = None,
        file_column: str | None = None,
        text_column: str | None = None,
        text_case: Case = "keep",
        punctuation: Punctuation = "keep",
        alphabet: str | None = None,
        normalize: bool = True,
        **sound: Any,
    ) -> None:
        super().__init__(root, batch_size, min_seconds, max_seconds, max_eval_seconds, labels=labels, **sound)
        if max_seconds > batch_size:
            raise no_room(batch_size, max_seconds, self.global_batch_size)
        if labels == "transcript" and max_eval_seconds is not None:
            raise UserError(
                f"data.max_eval_seconds is {max_eval_seconds}, but data.labels is transcript, and the text of a clip "
                "that is cut would not fit. Set it to null: long clips are recognised in chunks."
            )
        for_texts = {"transcripts": transcripts, "file_column": file_column, "text_column": text_column}
        for key, named in {**for_texts, "alphabet": alphabet}.items():
            if named is not None and labels != "transcript":
                raise UserError(f"data.{key} is {named}, but data.labels is {labels}: set that to transcript.")
        require(text_case in get_args(Case), "text_case", text_case, f"be one of {', '.join(get_args(Case))}")
        require(punctuation in get_args(Punctuation), "punctuation", punctuation, "be keep or remove")
        self.normalize = normalize
        self._cepstra = 0
        self.transcripts, self.file_column, self.text_column = transcripts, file_column, text_column
        self.text_case, self.punctuation = text_case, punctuation
        self._alphabet_file = alphabet

    def adapt_to(self, encoder: Encoder) -> None:
        """Make cepstra for an encoder that reads them."""
        channels = getattr(encoder.front, "in_channels", 1)
        self._cepstra = channels if channels > 1 else 0

    def preparation(self, training: bool) -> Prepare | None:
        if self._cepstra:
            return functools.partial(normalised_mfcc if self.normalize else mfcc, count=self._cepstra)
        return unit_variance if self.normalize else None

    def count_units(self, batch: Batch) -> float | Tensor:
        if self._cepstra:
            return SHIFT * super().count_units(batch._replace(inputs=batch.inputs[..., 0]))
        return super().count_units(batch)

    @functools.cached_property
    def alphabet(self) -> Alphabet | None:
        """Symbols of the transcripts; None without them."""
        if self.labels != "transcript":
            return None
        if self._alphabet_file is not None:
            return Alphabet.from_file(self._alphabet_file)
        texts, _ = self._texts
        require_transcripts("training", self._clips[0], texts)
        return Alphabet.from_transcripts(texts)

    def transcript(self, sample_id: int) -> str | None:
        """Transcript of a clip of the validation split, as it was given.

        None if there is none, or if the clip could not be read and another one replaces it.
        """
        clips = self.splits["val"].clips
        if self.skipped_samples("val", clips.name, len(clips)).is_broken(sample_id):
            return None
        return self.splits["val"].transcript(sample_id)

    @functools.cached_property
    def _texts(self) -> tuple[list[str], list[str]]:
        """Transcripts of the clips to train and to validate on, empty where there is none."""
        if self.labels != "transcript":
            return [], []
        train, val = self._clips
        parts = [train]
        if val is not None:
            parts.append(val)
        texts: list[str] = []
        if self.transcripts is None:
            for part in parts:
                texts += part.texts()
        else:
            path = Path(self.transcripts).expanduser()
            beside = Path(self.root).expanduser() / path
            if not path.exists() and beside.exists():
                path = beside
            names: list[str] = []
            for part in parts:
                names += map(part.name, range(len(part)))
            texts = read_transcripts(path, names, self.file_column, self.text_column)
        if self.text_case in ("upper", "lower") and {"\u0130", "\u0131"} & set("".join(texts)):
            advice = f"for Turkish, set it to {self.text_case}_tr"
            rank_zero_warn(f"data.text_case is {self.text_case}, and the transcripts hold a Turkish i: {advice}")
        texts = [clean(text, self.text_case, self.punctuation) for text in texts]
        return texts[: len(train)], texts[len(train) :]
