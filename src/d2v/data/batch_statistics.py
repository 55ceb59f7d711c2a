"""What a batch of inputs looks like, in a few numbers that show data which are not what they should be.

Everything stays on the batch's device; nothing is read from it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v import metrics
from d2v.data.normalisation import Normalisation
from d2v.data.sound.pitch import median_pitch
from d2v.types import Batch

_MOST_VALUES = 4096  # of a sample
_WINDOW = 512  # samples
_EXTREME = 0.005  # share of pixels that may be darker or brighter than what is called dark and bright
_THUMBNAIL = 8  # pixels a side
_MOST_OF_ONE_TOKEN = 0.8


@torch.no_grad()
def batch_statistics(batch: Batch, normalisation: Normalisation, rate: int | None) -> dict[str, Tensor]:
    """Statistics by the names of their metrics.

    Args:
        batch: Token ids [B, N], waveforms [B, samples], spectrograms [B, 1, frames, bins], pictures [B, C, H, W], or
            whatever else, of which only some are taken.
        normalisation: Of pixels, as the encoder expects it.
        rate: Values a second of waveforms; None: they are no sound.
    """
    inputs, found = batch.inputs, {}
    found[metrics.DUPLICATE_FRACTION] = _duplicates(batch)
    if not inputs.is_floating_point():
        return found | _of_tokens(inputs, batch.padding_mask)
    constant = _spread(inputs).std(dim=1) < 1e-3
    found[metrics.CONSTANT_FRACTION] = constant.float().mean()
    if inputs.dim() == 2 and rate is not None:
        found |= _of_waveforms(inputs, rate)
    if inputs.dim() == 4:
        found |= _of_pictures(inputs, normalisation)
    return found


def _spread(inputs: Tensor) -> Tensor:
    """Evenly spaced values of each sample [B, n]."""
    flat = inputs.flatten(1)
    every = max(1, flat.shape[1] // _MOST_VALUES)
    return flat[:, ::every][:, :_MOST_VALUES]


def _duplicates(batch: Batch) -> Tensor:
    """Of samples with different ids, by a sum of their bits that does not depend on the order of the addition."""
    values = _spread(batch.inputs)
    if values.is_floating_point():
        values = values.float().view(torch.int32)
    factors = torch.arange(1, 2 * values.shape[1], 2, device=values.device)
    keys = (values.long() * (factors * 0x9E3779B1)).sum(dim=1)
    different = _count_different(keys) / _count_different(batch.sample_ids)
    return (1 - different).clamp(min=0)


def _count_different(values: Tensor) -> Tensor:
    ordered = values.sort().values
    return 1 + (ordered[1:] != ordered[:-1]).sum()


def _of_tokens(ids: Tensor, padding_mask: Tensor | None) -> dict[str, Tensor]:
    if padding_mask is None:
        padding_mask = torch.zeros_like(ids, dtype=torch.bool)
    of_each = torch.zeros(len(ids), 1, device=ids.device)
    usual = ids.masked_fill(padding_mask, -1).mode(dim=1, keepdim=True).values
    of_each = ((ids == usual) & ~padding_mask).sum(dim=1) / (~padding_mask).sum(dim=1).clamp(min=1)
    ordered = ids.flatten().sort().values
    ordered_valid = ~padding_mask.flatten()[ids.flatten().argsort()]
    begins = torch.cat([ordered.new_ones(1), (ordered[1:] != ordered[:-1]).long()]).cumsum(0) - 1
    counts = torch.zeros(len(ordered), device=ids.device).index_add_(0, begins, ordered_valid.float())
    share = counts / counts.sum().clamp(min=1)
    return {
        metrics.CONSTANT_FRACTION: (of_each > _MOST_OF_ONE_TOKEN).float().mean(),
        metrics.TOKEN_TYPES: torch.special.entr(share).sum().exp(),
    }


def _of_waveforms(waves: Tensor, rate: int) -> dict[str, Tensor]:
    if waves.shape[1] < _WINDOW:  # too short to tell anything
        return {}
    length = min(_MOST_VALUES, waves.shape[1])
    begins = (waves.abs().argmax(dim=1) - length // 2).clamp(0, waves.shape[1] - length)  # around the loudest
    places = begins[:, None] + torch.arange(length, device=waves.device)
    some = waves.gather(1, places).sort(dim=1).values
    levels = 1 + (some[:, 1:] != some[:, :-1]).sum(dim=1)
    top, bottom = waves.amax(dim=1, keepdim=True), waves.amin(dim=1, keepdim=True)
    edge = 1e-3 * (top - bottom)
    at_edge = (waves > top - edge) | (waves < bottom + edge)
    window = torch.hann_window(_WINDOW, device=waves.device)
    spectra = torch.stft(waves.float(), _WINDOW, window=window, return_complex=True).abs()[:, 1:]  # [B, F, T]
    return {
        metrics.LEVELS: levels.float().median(),
        metrics.CLIPPED_FRACTION: at_edge.float().mean(dim=1).median(),
        metrics.PITCH: median_pitch(waves, rate),
        metrics.HIGH_BANDS: _high_bands(spectra.clamp(min=1e-4).log().mT),
    }


def _high_bands(levels: Tensor) -> Tensor:
    """Of log levels [B, frames, bands]: the louder half of the frames counts."""
    frames, half = max(1, levels.shape[1] // 2), levels.shape[2] // 2
    loudest = levels.mean(dim=2).topk(frames, dim=1).indices
    loud = levels.gather(1, loudest[..., None].expand(-1, -1, levels.shape[2]))
    difference = loud[..., half:].mean(dim=(1, 2)) - loud[..., :half].mean(dim=(1, 2))
    return (difference / loud.flatten(1).std(dim=1).clamp(min=1e-6)).median()


def _of_pictures(inputs: Tensor, normalisation: Normalisation) -> dict[str, Tensor]:
    if inputs.shape[1] == 1:  # a spectrogram [B, 1, frames, bands]
        return {metrics.HIGH_BANDS: _high_bands(inputs[:, 0].float())}
    small = F.adaptive_avg_pool2d(inputs.float(), _THUMBNAIL)
    small = small - small.mean(dim=(0, 2, 3), keepdim=True)
    small = F.normalize(small.flatten(1))
    count = max(len(small), 2)
    found = {metrics.LIKENESS: (small.sum(dim=0).square().sum() - len(small)) / (count * (count - 1))}
    if inputs.shape[1] == len(normalisation.mean):
        mean, std = (inputs.new_tensor(values).view(-1, 1) for values in normalisation)
        some = inputs.flatten(2)[..., :: max(1, inputs[0, 0].numel() // 1024)]  # [B, C, n]
        pixels = (some * std + mean).flatten().sort().values
        margin = int(_EXTREME * len(pixels))
        found |= {metrics.PIXEL_LOW: pixels[margin], metrics.PIXEL_HIGH: pixels[-1 - margin]}
    return found
