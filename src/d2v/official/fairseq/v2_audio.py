"""Checkpoints of EAT and SSLAM, data2vec 2.0 on spectrograms in fairseq, pretrained or fine-tuned."""

from typing import Any

from torch import Tensor

from d2v.checkpoints.recipe import node
from d2v.data.filter_banks import Spectrograms
from d2v.data.normalisation import ASSET
from d2v.errors import UserError
from d2v.official import published
from d2v.official.audio_tensors import FRONT_END, MEL_BINS
from d2v.official.fairseq import cfg, v2
from d2v.official.fairseq.v2_vision import ROWS, take_v2_classifier
from d2v.official.imported import Imported
from d2v.official.names import by_rows, given, model_state, tensor, trunk_sizes

_PREFIX = "modality_encoders.IMAGE."
AUDIOSET = (-4.268, 4.569)
"""Mean and deviation of its filter banks."""
_NORMALISATION = {"esc50_eval": (-6.627, 5.359), "spcv2_eval": (-6.846, 5.565)}
"""Mean and deviation of filter banks, by the settings of a fine-tuning (EAT's ``data/raw_audio_dataset.py``)."""
_DECODERS = {
    768: {"decoder_width": 768, "num_layers": 6, "kernel_size": 3, "groups": 16},
    1024: {"decoder_width": 1024, "num_layers": 3, "kernel_size": 5, "groups": 16},
}
"""EAT's, by the width of its encoders."""


def is_spectrogram_encoder(content: dict[str, Any]) -> bool:
    """Whether a 2.0 checkpoint of "pictures" is one of spectrograms: one channel, and a grid that is no square or the
    settings of a spectrogram's length."""
    proj = model_state(content).get(f"{_PREFIX}local_encoder.proj.weight")
    if not isinstance(proj, Tensor) or proj.ndim != 4 or proj.shape[1] != 1:
        return False
    settings = cfg.model_settings(content)
    section = given(given(settings.get("modalities")).get("image"))
    return not settings or "target_length" in section or bool(cfg.task_settings(content).get("audio_mae"))


def read_v2_audio(
    content: dict[str, Any],
    normalisation: tuple[float, float] = AUDIOSET,
    eps: float = 1e-6,
    mel_bins: int = MEL_BINS,
) -> Imported:
    """Translate a checkpoint in fairseq's names. What the tensors tell is taken from them.

    Args:
        content: Of the file; without settings those of the published pretraining hold.
        normalisation: Mean and deviation of filter banks, unless the settings of a fine-tuning say so.
        eps: Of the norm before a classifier.
        mel_bins: Of a spectrogram, which no tensor tells.

    Raises:
        UserError: It is not whole, or its encoder is a variant that no published model uses.
    """
    notes, own = [], cfg.own_model_settings(content)
    task = {**cfg.task_settings(content), **given(given(content.get("cfg")).get("task")), **own}
    if not cfg.model_settings(content):
        content, note = _with_published_settings(content)
        notes.append(note)
    found = v2.sort_v2(content, "IMAGE", by_rows(ROWS), refused=("use_alibi_encoder", "prenet_depth"))
    found.notes += notes
    section, weights = found.section, found.weights
    trunk = {**trunk_sizes(weights), **v2.trunk(found)}
    decoder = v2.decoder(found, "d2v.model.heads.ConvDecoder2d", _DECODERS.get(trunk["width"], _DECODERS[768]))
    patch_size = tensor(weights, "student.front.feature_extractor.proj.weight", dims=4).shape[-1]
    positions, columns = len(tensor(weights, "student.front.positions.table", dims=2)), mel_bins // patch_size
    if not columns or positions % columns:
        raise UserError(f"{positions} positions are no rows of {columns} patches, which {mel_bins} mel bins make")
    front = {"max_frames": positions // columns * patch_size, "mel_bins": mel_bins, "patch_size": patch_size}
    masking = node(
        "d2v.model.masking.InverseBlockMasking",
        mask_ratio=section.get("mask_prob", 0.7),
        block_size=section.get("mask_length", 5),
        adjust=section.get("mask_prob_adjust", 0),
    )
    cls_loss = v2.cls_loss(found, rows=192)  # 12 clips x 16 masks a device
    single = False
    for key, values in _NORMALISATION.items():
        if task.get(key):
            normalisation, single = values, True
    mean, std = normalisation
    frames = min(int(task.get("target_length", section.get("target_length", 1024))), front["max_frames"])
    found.assets[ASSET] = Spectrograms(mean, std, mel_bins, frames).to_asset()
    take_v2_classifier(found, {"prediction_mode": "CLS_TOKEN", **own}, eps, "single" if single else "multi")
    student = {"front": node(FRONT_END, **front), "trunk": trunk}
    tuned = cfg.fine_tuned("head.weight" in found.state)
    licence = "MIT if these are EAT's or SSLAM's weights"
    v2.finish_v2(found, "vision", tuned, licence, student, masking, decoder, cls_loss, "v2_audio")
    found.layout = f"EAT or SSLAM (data2vec 2.0 on spectrograms){tuned}"
    return found


def _with_published_settings(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The same with the settings of EAT's pretraining, and a note about it."""
    width = len(tensor(model_state(content), f"{_PREFIX}local_encoder.proj.weight", dims=4))
    heads = max(1, width // 64)
    settings = {**published.settings_of("v2_audio", width, "image"), "num_heads": heads, "encoder_dropout": 0.0}
    note = f"there are no settings: those of EAT's pretraining are taken, and {heads} heads, which are of width 64"
    return {**content, "cfg": {"model": settings}}, note
