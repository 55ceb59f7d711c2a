"""What MediaCallback draws, of each kind of input, and where it puts it."""

import numpy as np
import pytest
import torch
from encoders import make, speech_encoder, text_encoder, vision_encoder
from torch import Tensor

from d2v.errors import UserError
from d2v.modalities.audio.front_end import AudioFrontEnd
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.model.encoder import Encoder
from d2v.model.masking import InverseBlockMasking, Masking, RandomMasking, SpanMasking
from d2v.training.callbacks.media import MediaCallback
from d2v.training.encoder_media import Media, draw_features, draw_masks
from d2v.types import Batch, Data2VecOutput

TRUNK = {"width": 16, "depth": 1, "num_heads": 2}
GREY = 140  # of what is hidden


def drawn(encoder: Encoder, masking: Masking, inputs: Tensor, padding: Tensor | None = None) -> tuple[Media, Tensor]:
    """Everything that is drawn of an encoder, and the mask [R, N]."""
    encoder.eval()
    ids = torch.arange(len(inputs))
    batch = Batch(inputs, ids, torch.zeros_like(ids), padding_mask=padding)
    media = Media()
    with torch.no_grad():
        features = encoder.extract(inputs, padding)
        mask = masking(batch, features.grid, 2, 0, features.padding_mask)
        nothing, zero = torch.zeros(2, 1, 16), torch.zeros(())
        output = Data2VecOutput(zero, zero, None, nothing, nothing, mask, features)
        draw_masks(encoder, batch, output, media)
        draw_features(encoder, inputs, padding, media)
    return media, mask.masked


def test_pictures_have_their_hidden_patches_in_grey() -> None:
    encoder = vision_encoder(image_size=32, patch_size=8, **TRUNK)
    inputs = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    media, masked = drawn(encoder, InverseBlockMasking(mask_ratio=0.5, block_size=2), inputs)
    sheet = np.asarray(media.pictures["media/masks"])
    assert sheet.shape == (3 * 128 + 2 * 4, 5 * 128 + 4 * 4, 3)
    second = sheet[132:260, 132 : 132 + 128]  # first mask of the second picture
    is_grey = (second.reshape(4, 32, 4, 32, 3) == GREY).all(axis=(1, 3, 4))
    assert (is_grey.flatten() == masked[2].numpy()).all()
    assert not (sheet[:128] == GREY).all(axis=-1).any()
    assert set(media.pictures) == {"media/masks", "media/features", "media/similarity", "media/neighbours"}
    assert np.asarray(media.pictures["media/neighbours"]).shape[0] == 5 * 128 + 4 * 4
    shares = media.spectra["features"]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert shares == sorted(shares, reverse=True)


def test_spectrograms_have_their_hidden_spans_in_grey() -> None:
    encoder = speech_encoder(
        extractor=[(16, 10, 5), (16, 8, 4), (16, 4, 4)], position_kernel=3, position_groups=2, **TRUNK
    )
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 16_000, generator=generator)
    padding = torch.zeros(3, 16_000, dtype=torch.bool)
    padding[2, 8_000:] = True
    media, masked = drawn(encoder, SpanMasking(mask_ratio=0.5, span=5), inputs, padding)
    sheet = np.asarray(media.pictures["media/masks"])
    hidden = (sheet[72 + 4 : 72 + 4 + 72] == GREY).all(axis=(0, 2))
    assert hidden.mean() == pytest.approx(masked[0].float().mean().item(), abs=0.02)
    directions = np.asarray(media.pictures["media/features"])
    assert (directions[-40:, -300:] == 255).all(), "padding is white"
    assert media.pictures["media/similarity"].height == 220


def test_spectrogram_patches_lie_with_time_to_the_right() -> None:
    encoder = make(AudioFrontEnd, max_frames=128, mel_bins=32, **TRUNK)
    inputs = torch.zeros(2, 1, 128, 32)
    inputs[:, :, 64:, :16] = 1.0  # the second half, low frequencies
    media, _ = drawn(encoder, RandomMasking(mask_ratio=0.5), inputs)
    sheet = np.asarray(media.pictures["media/features"]).astype(int)
    assert (sheet[:72].sum(axis=-1).reshape(2, 36, 2, 480).mean(axis=(1, 3)).argmax()) == 3
    assert not np.array_equal(sheet[76 + 60, 100], sheet[76 + 60, 900]), "its tokens lie as its picture does"


def test_texts_have_their_hidden_tokens_marked() -> None:
    tokenizer = TextTokenizer.train(["the cat sat on the mat"] * 3, vocab_size=260)
    encoder = text_encoder(vocab_size=len(tokenizer), max_positions=32, **TRUNK)
    encoder.assets["tokenizer.json"] = tokenizer.to_json()
    rows = [tokenizer.sequence(tokenizer.encode(text), max_length=16) for text in ("the cat", "on the mat", "sat sat")]
    longest = max(map(len, rows))
    inputs = torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows])
    media, masked = drawn(encoder, RandomMasking(mask_ratio=0.4), inputs, inputs == tokenizer.pad_id)
    first = media.texts["media/tokens"][0]
    assert "".join(text for text, _ in first) == "<s>the cat</s>"
    assert [is_masked for _, is_masked in first] == masked[0][: len(first)].tolist()
    assert media.texts["media/neighbours"][0][0][1] is True
    assert set(media.pictures) == {"media/features", "media/similarity"}


def test_what_no_front_end_shows_is_drawn_by_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = vision_encoder(image_size=32, patch_size=8, **TRUNK)
    monkeypatch.setattr(type(encoder.front), "show", lambda front, inputs, assets: None)
    media, _ = drawn(encoder, RandomMasking(mask_ratio=0.5), torch.rand(3, 3, 32, 32))
    assert media.pictures["media/masks"].height == 3 * 128 + 2 * 4


def test_numbers_that_are_none_draw_no_features() -> None:
    encoder = vision_encoder(image_size=32, patch_size=8, **TRUNK)
    media, _ = drawn(encoder, RandomMasking(mask_ratio=0.5), torch.full((2, 3, 32, 32), torch.nan))
    assert media.spectra == {}


def test_bad_interval() -> None:
    with pytest.raises(UserError, match="every_n_steps is 0"):
        MediaCallback(0)
