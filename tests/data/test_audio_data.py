"""Spectrograms of clips: their lengths and scales, resuming, what encoder and data share, features of long clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import make as make_encoder
from speech_files import read_audio, tones, write_audio

from d2v.data.filter_banks import Spectrograms, filter_banks, read_spectrograms
from d2v.errors import UserError
from d2v.features.encode import Row, embed_inputs
from d2v.features.feature_settings import FeatureOptions
from d2v.features.pieces import Pieces, plan_lengths
from d2v.modalities.audio.data import AudioDataModule
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.modalities.audio.inputs import open_inputs
from d2v.model.encoder import Encoder
from d2v.types import Batch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Stereo at 48 kHz, and clips that are shorter and longer than 64 frames (0.655 s)."""
    root = tmp_path / "clips"
    stereo = np.stack([tones(1.0, 48_000, 1)] * 2, axis=1)
    write_audio(root / "bells" / "a.wav", stereo, 48_000)
    write_audio(root / "bells" / "b.flac", seconds=0.4)
    for number in range(4):
        write_audio(root / "rain" / f"{number}.flac", seconds=0.9 + number / 10, seed=number)
    return root


def encoder(**arguments: Any) -> Encoder:
    torch.manual_seed(0)
    return make_encoder(AudioFrontEnd, width=16, depth=2, num_heads=2, **{"max_frames": 128, **arguments}).eval()


def data(root: Path, **values: Any) -> AudioDataModule:
    return AudioDataModule(str(root), **{"batch_size": 2, "frames": 64, "num_workers": 0, **values})


def batches(module: AudioDataModule) -> list[Batch]:
    module.setup("fit")
    return list(module.train_dataloader())


def test_spectrograms_are_cut_padded_and_scaled(clips: Path) -> None:
    module = data(clips, mean=-5.0, std=4.0, labels="folder")
    module.setup("fit")
    found = module.eval_dataset("train")
    assert found is not None
    spectrogram, label = found.load(1)  # 0.4 s: 38 frames
    assert (spectrogram.shape, label, module.class_names) == ((1, 64, 128), 0, ("bells", "rain"))
    rows = filter_banks(read_audio(clips / "bells" / "b.flac"))
    torch.testing.assert_close(spectrogram[0, :38], (rows + 5) / 8)
    assert (spectrogram[0, 38:] == 5 / 8).all()
    beginning = filter_banks(read_audio(clips / "rain" / "3.flac"))[:64]
    torch.testing.assert_close(found.load(5)[0][0], (beginning + 5) / 8, atol=1e-3, rtol=0)


def test_training_crops_have_keys(clips: Path) -> None:
    first, again = batches(data(clips, roll=True)), batches(data(clips, roll=True, num_workers=2))
    assert {batch.inputs.shape for batch in first} == {(2, 1, 64, 128)}
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.sample_ids, other.sample_ids)
        assert torch.equal(one.inputs, other.inputs)
    module = data(clips)
    module.setup("fit")
    crops = module.train_dataset()
    assert not torch.equal(crops[(0, 4)].inputs, crops[(1, 4)].inputs)
    assert module.count_units(first[0]) == 2


def test_encoder_and_data_share_how_spectrograms_are_made(clips: Path) -> None:
    student = encoder()
    module = data(clips, mean=-6.627, std=5.359)
    module.adapt_to(student)
    assert read_spectrograms(student.assets) == Spectrograms(-6.627, 5.359, 128, 64)
    later = data(clips, frames=None)
    later.adapt_to(student)
    assert later.preparation(training=False)(torch.zeros(8000)).shape == (1, 64, 128)
    few = encoder(mel_bins=64)
    data(clips).adapt_to(few)
    assert read_spectrograms(few.assets) == Spectrograms(mel_bins=64, frames=64)
    asset = student.assets["preprocessor_config.json"]
    damaged = [asset.replace("5.359", "NaN"), asset.replace("64", "Infinity"), asset.replace("64", "0")]
    for senseless in ("", "[]", *damaged):
        assert read_spectrograms({"preprocessor_config.json": senseless}) is None
    for frames in (72, 256):
        with pytest.raises(UserError, match=r"data\.frames is .*: it must be a multiple .* 16 frames, and at most 128"):
            data(clips, frames=frames).adapt_to(student)


def features(checkpoint: Encoder, root: Path, pool: Any) -> list[Row]:
    inputs, device = open_inputs(str(root), checkpoint), torch.device("cpu")
    options = FeatureOptions(pool=pool)
    pieces = Pieces(inputs, checkpoint, plan_lengths(inputs, device, options))
    return [row for row in embed_inputs(checkpoint, pieces, device, options) if isinstance(row, Row)]


def test_features_of_clips_of_any_length(clips: Path) -> None:
    student = encoder()
    data(clips).adapt_to(student)  # 64 frames are what it is trained on
    write_audio(clips / "long.flac", seconds=3.0, seed=7)
    write_audio(clips / "tiny.flac", tones(0.01))
    rows = {row.name: row for row in features(student, clips, "none")}
    short = rows["bells/b.flac"]
    assert (short.duration, short.num_frames, short.features.shape) == (0.4, 24, (24, 16))  # 3 x 8 patches
    spectrogram = Spectrograms().of(read_audio(clips / "bells" / "b.flac"), 48)
    with torch.no_grad():
        expected = student(spectrogram[None]).tokens[0]
    np.testing.assert_allclose(short.features, expected, atol=1e-5)
    assert short.times is not None
    assert short.times[[0, 7, 8]].tolist() == pytest.approx([0.0875, 0.0875, 0.2475])
    assert rows["long.flac"].num_frames == 19 * 8  # 298 frames
    assert rows["tiny.flac"].num_frames == 8
    mean = next(row for row in features(student, clips, "mean") if row.name == "long.flac")
    np.testing.assert_allclose(mean.features, rows["long.flac"].features.mean(axis=0), atol=1e-5)


def test_positions_do_not_depend_on_the_length() -> None:
    student = encoder()
    table = student.front.positions
    assert table is not None
    long, short = student.extract(torch.randn(1, 1, 128, 128)), student.extract(torch.randn(1, 1, 48, 128))
    assert torch.equal(table(long)[:, :24], table(short))
    with pytest.raises(UserError, match="9 x 8 patches, and the encoder has positions for 8 x 8"):
        student(torch.randn(1, 1, 144, 128))
    with pytest.raises(ValueError, match="max_frames 100 and mel_bins 128 must be multiples of 16"):
        encoder(max_frames=100)


def test_a_probe_asks_for_labels_that_are_not_read(clips: Path) -> None:
    module = data(clips)
    module.setup("fit")
    with pytest.raises(UserError, match=r"data\.labels is null.* --data\.labels folder"):
        module.probe_dataloaders()
