"""What is told of an encoder of spectrograms."""

from typing import Any

FRONT_END = "d2v.modalities.audio.front_end.AudioFrontEnd"
EXAMPLE = "encoder.embed(spectrogram)  # normalised log-mel filter banks [B, 1, frames, mel bins] -> [B, {width}]"
MEL_BINS = 128
"""Of every published encoder."""


def shown(front: dict[str, Any]) -> dict[str, Any]:
    """What is worth showing of a front end."""
    return {"patch": front["patch_size"], "mel bins": front["mel_bins"], "longest": f"{front['max_frames']} frames"}
