"""Batches of sound: what is in them, what is left out, and that neither workers nor a resume change them."""

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encoders import speech_encoder
from recording import Recorder, SaveAfter, trainer
from speech_files import encoded, tones, write_audio, write_librispeech
from torch import Tensor

from d2v.data.samples import Sample
from d2v.data.sound.audio_reader import AudioReader
from d2v.errors import UserError
from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.types import Batch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(root: Path, **values: Any) -> LibriSpeechDataModule:
    settings: dict[str, Any] = {"batch_size": 2.0, "num_workers": 0, "min_seconds": 0.1, "max_seconds": 0.5}
    return LibriSpeechDataModule(str(root), **{**settings, **values})


def speech(root: Path) -> Path:
    """Three speakers with 14 clips of 0.2 to 0.9 s, and one more to validate."""
    write_librispeech(root, "train-a", {3: [0.2 + 0.1 * n for n in range(8)], 5: [0.3, 0.4, 0.5], 8: [0.9, 0.25, 0.6]})
    write_librispeech(root, "dev-clean", {11: [0.3, 1.2]})
    return root


def batches(data: LibriSpeechDataModule, epochs: int = 1) -> list[Batch]:
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found += list(loader)
    return found


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        (a is None and b is None) or torch.equal(a, b)
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def test_batches_are_normalised_padded_and_within_their_seconds(tmp_path: Path) -> None:
    data = make(speech(tmp_path))
    seen = batches(data, epochs=2)
    ids = [
        (epoch, i) for batch in seen for epoch, i in zip(batch.epochs.tolist(), batch.sample_ids.tolist(), strict=True)
    ]
    assert sorted(ids) == [(epoch, i) for epoch in (0, 1) for i in range(14)]
    lengths = data.train_dataset().lengths
    assert lengths.max() == 8_000
    padded = 0
    for batch in seen:
        assert batch.inputs.numel() <= 2.0 * 16_000
        assert batch.labels is None
        valid = torch.ones_like(batch.inputs, dtype=torch.bool) if batch.padding_mask is None else ~batch.padding_mask
        assert valid.sum(dim=1).tolist() == lengths[batch.sample_ids].tolist()
        assert float(data.count_units(batch)) == pytest.approx(float(valid.sum()) / 16_000)
        assert (batch.inputs[~valid] == 0).all()
        for wave, keep in zip(batch.inputs, valid, strict=True):
            assert wave[keep].mean().abs() < 1e-5
            assert wave[keep].std(unbiased=False) == pytest.approx(1, abs=1e-3)
        padded += int((~valid).sum())
    assert padded
    first, second = (
        {int(i): w for b in seen for i, w, e in zip(b.sample_ids, b.inputs, b.epochs, strict=True) if e == n}
        for n in (0, 1)
    )
    longest = int(np.argmax(data.splits["fit"].clips.num_samples))
    assert not torch.equal(first[longest], second[longest])  # another crop


def test_workers_change_nothing(tmp_path: Path) -> None:
    root = speech(tmp_path)
    (root / "train-a/3/7/3-7-0002.flac").write_bytes(encoded(seconds=0.6)[:5_000])  # found out in a worker
    assert same(batches(make(root), 2), batches(make(root, num_workers=2), 2))
    assert not same(batches(make(root)), batches(make(root, seed=1)))


def test_raw_samples_without_normalisation(tmp_path: Path) -> None:
    wave = tones(0.3)
    write_audio(tmp_path / "a.wav", wave)
    (batch,) = batches(make(tmp_path, normalize=False))
    assert np.abs(batch.inputs[0].numpy() - wave).max() < 1e-4


def test_unusable_files_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "sound"
    for number in range(4):
        write_audio(root / f"good{number}.flac", seconds=0.3, rate=8_000 if number == 0 else 16_000, seed=number)
    write_audio(root / "stereo.mp3", np.stack([tones(0.3)] * 2, axis=1))
    write_audio(root / "short.wav", seconds=0.05)
    write_audio(root / "no_frame.wav", seconds=0.02)
    write_audio(root / "silent.wav", np.zeros(4_800, dtype=np.float32))
    (root / "empty.wav").write_bytes(b"")
    (root / "text.ogg").write_text("no sound at all")
    (root / "cut.flac").write_bytes(encoded(seconds=0.5)[:5_000])
    bad = tones(0.3)
    bad[100] = np.nan
    soundfile.write(root / "nan.wav", bad, 16_000, subtype="FLOAT")
    logging.getLogger("d2v").addHandler(handler := _Messages())
    data = make(root)
    seen = batches(data, 2)
    logging.getLogger("d2v").removeHandler(handler)
    assert all(torch.isfinite(batch.inputs).all() for batch in seen)
    assert data.skipped == 5
    assert len({int(i) for batch in seen for i in batch.sample_ids}) == 8  # three of them stand for a good one
    for words in ("silent.wav: it is silent", "cut.flac: it ", "nan.wav: it holds values that are not finite"):
        assert sum(words in message for message in handler.messages) == 1


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_what_is_said_about_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_librispeech(tmp_path, "train-a", {3: [0.3, 0.09, 0.4, 0.08]})
    write_audio(tmp_path / "train-a/3/7/3-7-0009.flac", np.stack([tones(0.3, 8_000)] * 2, axis=1), rate=8_000)
    (tmp_path / "train-a/3/7/3-7-0010.flac").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        make(tmp_path).setup("fit")
    assert "data: left out 1 clips of the training split shorter than 0.085 s" in caplog.text
    assert "data: training: 3 clips, 0.00 h, 1 speakers; left out: 1 shorter than data.min_seconds 0.1" in caplog.text
    assert "resampling 8,000 Hz to 16,000 Hz: 1 of 5 clips (first: " in caplog.text
    assert "averaging the channels of 1 of 5 clips" in caplog.text
    assert "3-7-0010.flac: the file is empty" in caplog.text


def test_too_many_broken_files_stop_the_run(tmp_path: Path) -> None:
    for number in range(10):
        write_audio(tmp_path / f"{number}.flac", seconds=0.2)
        (tmp_path / f"broken{number}.flac").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"10 of 20 files of the training split cannot be read.*max_skipped_fraction = 0\.01"
    ):
        make(tmp_path).setup("fit")
    make(tmp_path, max_skipped_fraction=0.6).setup("fit")


def test_a_transcript_is_never_cropped(tmp_path: Path) -> None:
    data = make(speech(tmp_path), labels="transcript")
    seen = batches(data)
    assert data.alphabet is not None
    assert data.class_names == ()
    texts = {}
    for batch in seen:
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        for i, row in zip(batch.sample_ids.tolist(), batch.labels, strict=True):
            texts[i] = data.alphabet.decode(row[row >= 0].tolist())
    assert len(texts) == 8  # clips of up to 0.5 s
    assert texts[0] == "SPEAKER D CLIP K"
    val = list(data.val_dataloader())
    assert [len(wave) for batch in val for wave in batch.inputs] == [4_800, 19_200]
    assert val[0].labels is not None
    (tmp_path / "letters.txt").write_text("\ufeff|\nE\nA\nS\nP\nK\nR\nC\nL\nI\n", encoding="utf-8")
    other = make(tmp_path, labels="transcript", alphabet=str(tmp_path / "letters.txt"))
    other.setup("fit")
    assert other.alphabet is not None
    assert other.alphabet.symbols == ("<blank>", "|", *"EASPKRCLI")
    (tmp_path / "letters.txt").write_text("|\n\u0431\n\u0432\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.alphabet: its 3 symbols .* only \d+% of the transcripts.*SPEAKER"):
        make(tmp_path, labels="transcript", alphabet=str(tmp_path / "letters.txt")).setup("fit")


def test_classes_and_held_out_parts(tmp_path: Path) -> None:
    root = speech(tmp_path)
    data = make(root, labels="speaker", val_fraction=0.3)
    assert data.class_names == ("3", "5", "8")
    assert data.num_classes == 3
    train, val = (data.eval_dataset(split) for split in ("train", "val"))
    assert train is not None
    assert val is not None
    assert (len(train), len(val)) == (10, 4)
    assert {int(label) for batch in data.probe_dataloaders()[1] for label in batch.labels} <= {0, 1, 2}
    with pytest.raises(UserError, match="classes that the training split has not: 11"):
        make(root, labels="speaker").setup("fit")
    with pytest.raises(UserError, match="no speaker would be in both"):
        make(root, labels="speaker", val_fraction=0.3, hold_out="speakers")
    by_speaker = make(root, val_fraction=0.3, hold_out="speakers", seed=7)
    clips = {split: by_speaker.splits[split].clips for split in ("train", "val")}
    speakers = {split: {Path(c.name(i)).name[0] for i in range(len(c))} for split, c in clips.items()}
    assert not speakers["train"] & speakers["val"]
    assert len(speakers["val"]) == 1


def test_speakers_of_emodb_stand_in_a_table(tmp_path: Path) -> None:
    """Its names are SPEAKER TEXT EMOTION VERSION: 03a01Fa.wav. A table says what a clip is, and whose."""
    rows = ["file,emotion,speaker"]
    for speaker in ("03", "08", "11"):
        for emotion in "FNW":
            name = write_audio(tmp_path / "wav" / f"{speaker}a01{emotion}a.wav", seconds=0.5).name
            rows.append(f"{name},{emotion},{speaker}")
    table = tmp_path / "emodb.csv"
    table.write_text("\n".join(rows).replace("emotion", "label"))
    data = make(tmp_path / "wav", labels=str(table), val_fraction=0.3, hold_out="speakers", min_seconds=0.0)
    assert data.class_names == ("F", "N", "W")
    clips = {split: data.splits[split].clips for split in ("train", "val")}
    speakers = {split: {Path(name).name[:2] for name in c.names()} for split, c in clips.items()}
    assert (len(speakers["train"]), len(speakers["val"])) == (2, 1)
    assert not speakers["train"] & speakers["val"]
    table.write_text("\n".join(rows).replace("speaker", "voice").replace("emotion", "label"))
    with pytest.raises(UserError, match="a table with a column `speaker`"):
        make(tmp_path / "wav", labels=str(table), val_fraction=0.3, hold_out="speakers").setup("fit")


def test_several_classes_at_once(tmp_path: Path) -> None:
    for number in range(3):
        write_audio(tmp_path / f"{number}.wav", seconds=0.3)
    (tmp_path / "labels.csv").write_text('0.wav,"dog,cat"\n1.wav,cat\n')
    data = make(tmp_path, labels=str(tmp_path / "labels.csv"))
    (batch,) = batches(data)
    assert batch.labels is not None
    assert batch.labels.dtype == torch.float32
    assert batch.labels[batch.sample_ids.argsort()].tolist() == [[1, 1], [1, 0]]
    assert data.class_names == ("cat", "dog")


def test_a_table_of_labels_without_the_validation_split_says_so(tmp_path: Path) -> None:
    write_audio(tmp_path / "train/a.wav", seconds=0.3)
    write_audio(tmp_path / "val/b.wav", seconds=0.3)
    (tmp_path / "labels.csv").write_text("a.wav,cat\n")
    with pytest.raises(
        UserError, match=r"is a clip of the validation split; .* data\.root: a share of it is then held"
    ):
        make(tmp_path, labels=str(tmp_path / "labels.csv"), train_split="train").setup("fit")


def test_a_subset_of_hours_is_fixed_and_nested(tmp_path: Path) -> None:
    root = speech(tmp_path)
    total = float(make(root).splits["fit"].hours)
    sizes, previous = [], set[str]()
    for share in (0.2, 0.6):
        clips = make(root, max_hours=total * share, seed=int(10 * share)).splits["fit"].clips
        names = {clips.name(i) for i in range(len(clips))}
        assert previous < names
        assert clips.num_samples.sum() / 16_000 / 3600 >= total * share
        previous = names
        sizes.append(len(names))
    assert sizes[1] < 14
    assert len(make(root, max_hours=total * 2).splits["fit"].clips) == 14


def test_evaluation_reads_whole_clips_in_order(tmp_path: Path) -> None:
    data = make(speech(tmp_path), batch_size=1.0)
    val = list(data.val_dataloader())
    assert [batch.sample_ids.tolist() for batch in val] == [[0], [1]]  # 2 x 1.2 s are more than 1 s, and so is one
    assert [batch.inputs.shape[1] for batch in val] == [4_800, 19_200]
    cut = make(tmp_path, batch_size=1.0, max_eval_seconds=0.4)
    (batch,) = list(cut.val_dataloader())
    assert batch.inputs.shape == (2, 6_400)
    train, _ = make(tmp_path, labels="folder", train_split="train-a", val_split="train-a").probe_dataloaders(
        max_samples=5
    )
    assert sum(len(batch.inputs) for batch in train) == 5


def test_a_long_file_is_decoded_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.opus", np.stack([tones(2.5, 48_000)] * 2, axis=1), rate=48_000)
    write_audio(tmp_path / "b.flac", seconds=1.5, rate=22_050)
    expected = [make(tmp_path).eval_dataset("train")[(0, i)].inputs for i in range(2)]
    asked = []
    read = AudioReader.read

    def spy(self: AudioReader, start: int, stop: int) -> Tensor:
        asked.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(AudioReader, "read", spy)
    monkeypatch.setattr("d2v.data.sound.waveforms._SLICE", 10_000)
    found = [make(tmp_path).eval_dataset("train")[(0, i)].inputs for i in range(2)]
    assert max(asked) == 10_000
    for one, other in zip(expected, found, strict=True):
        assert (one - other).abs().max() < 1e-3


def test_a_single_clip_is_a_batch_without_a_copy() -> None:
    wave = torch.rand(1000)
    batch = LibriSpeechDataModule.collate([Sample(wave, 0, 0, None)])
    assert batch.padding_mask is None
    assert batch.inputs.shape == (1, 1000)
    assert batch.inputs.data_ptr() == wave.data_ptr()


def test_no_more_than_one_long_clip_is_fetched_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(speech(tmp_path), num_workers=3)
    loader = data.predict_dataloader()
    assert (loader.num_workers, loader.prefetch_factor) == (3, 2)
    monkeypatch.setattr("d2v.data.sound.sound_module._LONG_SECONDS", 1)
    for loader in (data.predict_dataloader(), data.test_dataloader()):
        assert (loader.num_workers, loader.prefetch_factor) == (1, 1)
    assert make(tmp_path).predict_dataloader().num_workers == 0


def test_what_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = speech(tmp_path)
    assert len(make(root).predict_dataset()) == 2
    assert len(make(root / "train-a").predict_dataset()) == 14  # there is no validation split
    everything = make(root, predict_on="all", max_eval_seconds=0.3).predict_dataset()
    assert len(everything) == 16
    assert max(everything.lengths) == 1.2 * 16_000
    assert everything.skipped.name(0).endswith("11-7-0000.flac")
    monkeypatch.setattr(LibriSpeechDataModule, "world_size", 3)
    with pytest.raises(UserError, match="2 samples to predict on 3 devices leave some without any"):
        make(root).predict_dataloader()


def test_a_transcript_is_given_as_it_is_written(tmp_path: Path) -> None:
    root = speech(tmp_path)
    (root / "dev-clean/11/7/11-7.trans.txt").write_text("11-7-0000 Speaker 2, two\n11-7-0001 ÉCLAIR\n")
    (root / "dev-clean/11/7/11-7-0000.flac").write_bytes(encoded(seconds=0.6)[:5_000])
    data = make(root, labels="transcript")
    assert [data.transcript(i) for i in range(2)] == ["Speaker 2, two", "ÉCLAIR"]
    list(data.val_dataloader())
    assert data.transcript(0) is None, "it is broken, and another clip stands in its place"
    assert make(root).transcript(0) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"max_seconds": 3.0},
            r"data\.batch_size 2 .*a clip of data\.max_seconds 3: raise it to 3 or more, or set .* to 2 too\.$",
        ),
        ({"max_seconds": 3.0, "global_batch_size": 5.0}, r"Besides, data\.global_batch_size 5\.0 cannot be met"),
        ({"min_seconds": 0.9}, r"data\.min_seconds is 0\.9"),
        ({"min_seconds": 0.0, "max_seconds": 0.08}, r"data\.max_seconds is 0\.08: it must be at least 0\.085"),
        ({"max_eval_seconds": 0.05}, r"data\.max_eval_seconds is 0\.05: it must be at least 0\.085"),
        ({"max_hours": 0}, r"data\.max_hours is 0"),
        ({"val_fraction": 1.0}, r"data\.val_fraction is 1\.0"),
        ({"hold_out": "voices"}, r"data\.hold_out is voices"),
        ({"predict_on": "test"}, r"data\.predict_on is test"),
        ({"labels": "transcript", "max_eval_seconds": 9}, r"data\.max_eval_seconds is 9, but data\.labels is transcr"),
        ({"batch_size": 0.5}, r"data\.batch_size is 0\.5"),
    ],
)
def test_senseless_values_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, **values)


def test_data_that_leave_nothing_are_explained(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", seconds=0.09)
    with pytest.raises(UserError, match=r"leave nothing to train on: the clips last 0\.09 to 0\.09 s"):
        make(tmp_path).setup("fit")
    with pytest.raises(UserError, match="no clip of the training split has one"):
        make(tmp_path, labels="transcript", alphabet=str(_alphabet(tmp_path))).setup("fit")
    write_audio(tmp_path / "a.wav", np.ones(1_359, dtype=np.float32))
    with pytest.raises(UserError, match=r"lasts for 0\.085 s"):
        make(tmp_path).setup("fit")


def test_no_clip_of_fewer_than_four_frames_is_trained_or_validated_on(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, samples in enumerate((1_359, 1_360)):
            write_audio(tmp_path / split / f"{number}.wav", tones(1)[:samples])
    data = make(tmp_path, min_seconds=0.0)
    assert [batch.inputs.shape for batch in batches(data)] == [(1, 1_360)]
    assert [batch.inputs.shape for batch in data.val_dataloader()] == [(1, 1_360)]
    frames = speech_encoder(width=8, depth=1, num_heads=1, position_groups=1).front.feature_extractor.num_frames
    assert (frames(1_359), frames(1_360)) == (3, 4)


def test_speakers_that_are_not_known_are_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("3-7-0000", "5-7-0000", "other"):
        write_audio(tmp_path / f"{name}.wav", seconds=0.2)
    with caplog.at_level(logging.INFO):
        make(tmp_path).setup("fit")
    assert "data: training: 3 clips, 0.00 h, 2 speakers" in caplog.text


def _alphabet(folder: Path) -> Path:
    (folder / "letters.txt").write_text("A\n")
    return folder / "letters.txt"


@pytest.mark.parametrize("count", [3, 4, 10])  # within an accumulation, between two steps, in a later epoch
def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(tmp_path: Path, count: int) -> None:
    root = speech(tmp_path / "data")
    (root / "train-a/3/7/3-7-0004.flac").write_bytes(encoded(seconds=0.6)[:5_000])
    path = tmp_path / "run.ckpt"
    values = {"batch_size": 1.0, "global_batch_size": 2.0}
    whole, resumed = Recorder(), Recorder()
    trainer(max_steps=9, callbacks=[SaveAfter(path, count)]).fit(whole, make(root, num_workers=1, **values))
    trainer(max_steps=9).fit(resumed, make(root, **values), ckpt_path=path, weights_only=True)
    assert len(whole.seen) == 18
    assert same(whole.seen[:count] + resumed.seen, whole.seen)


def test_padding_and_speed_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make(speech(tmp_path), batch_size=1.5, global_batch_size=3.0)
    fit = trainer(max_steps=4, log_every_n_steps=4, callbacks=[ThroughputCallback()])
    module = Recorder()
    with caplog.at_level(logging.INFO):
        fit.fit(module, data)
    assert "3 audio seconds an optimizer step = 1.5 audio seconds x 1 devices x 2 accumulated" in caplog.text
    seen = module.seen
    padding = sum(int(batch.padding_mask.sum()) for batch in seen if batch.padding_mask is not None)
    total = sum(batch.inputs.numel() for batch in seen)
    assert float(fit.callback_metrics["throughput/padding_fraction"]) == pytest.approx(padding / total)
    assert fit.callback_metrics["throughput/audio_seconds_per_second"] > 0


def test_prediction_goes_through_lightning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    ids = trainer().predict(Recorder(), make(speech(tmp_path)))
    assert ids is not None
    assert torch.cat(ids).tolist() == [0, 1]
    assert not [w for w in recwarn if "batch sampler" in str(w.message)]


@pytest.mark.parametrize(("devices", "expected"), [(1, 16), (8, 2), (16, 1)])
def test_the_published_batch_on_any_number_of_devices(
    tmp_path: Path, devices: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LibriSpeechDataModule, "world_size", devices)
    data = make(speech(tmp_path), batch_size=237.5, global_batch_size=3800.0)
    data.setup("fit")
    assert data.accumulation == expected
    assert len(list(islice(data.train_dataloader(), 100))) == expected  # far less data than one step: they repeat


def test_few_labels_of_sound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Shares and numbers of clips are those of pictures and texts: balanced by class, the same whatever the seed."""
    for number in range(12):
        write_audio(tmp_path / f"data/{'dog' if number % 4 else 'cat'}/{number:02d}.wav", seconds=0.2, seed=number)
    root = tmp_path / "data"

    def chosen(**values: Any) -> list[str]:
        clips = make(root, labels="folder", **values).splits["fit"].clips
        return [Path(name).name for name in clips.names()]

    with caplog.at_level(logging.INFO):
        few = chosen(label_fraction=0.5)
    drawn = "drawn by a fixed seed for data.label_fraction: 3 of cat, 3 of dog"
    assert f"data: 6 of 12 training clips, {drawn}" in caplog.text
    assert few == chosen(max_samples=6, seed=7)
    assert set(chosen(label_fraction=0.01)) < set(few)
    assert len(chosen(label_fraction=0.01)) == 2
    (tmp_path / "list.txt").write_text("00.wav\ndog/01.wav\n")
    assert chosen(subset=str(tmp_path / "list.txt")) == ["00.wav", "01.wav"]
    with pytest.raises(UserError, match=r"data\.max_hours is 1\.0 and data\.max_samples 6: set one of them"):
        make(root, max_hours=1.0, max_samples=6)
