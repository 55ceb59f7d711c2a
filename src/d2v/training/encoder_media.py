"""What is drawn of one encoder: its masks, and what it makes of some inputs."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from d2v import metrics
from d2v.evaluation.principal_directions import principal_colours, spectrum
from d2v.model.encoder import Encoder, mean_of_tokens
from d2v.model.shown_inputs import ShownInputs
from d2v.training.media_sheets import Places, Sheet, colours, evenly, picture_of, resized, square, table_of
from d2v.types import Batch, Data2VecOutput, EncoderOutput

MOST_KEPT = 32
"""Inputs of a batch that are kept, to be drawn again and again."""
_MOST_SHOWN, _MATRICES = 6, 4
_QUERIES, _NEIGHBOURS = 5, 5
_ROWS, _MATRIX = 1024, 256
_TEXTS, _WORDS = 3, 160

MarkedText = list[tuple[str, bool]]
"""Pieces of a text, each with whether it is marked."""


@dataclass
class Media:
    """By the names of ``metrics.py``."""

    pictures: dict[str, Image.Image] = field(default_factory=dict)
    texts: dict[str, list[MarkedText]] = field(default_factory=dict)
    spectra: dict[str, list[float]] = field(default_factory=dict)
    """By what they are of."""


def draw_masks(encoder: Encoder, batch: Batch, output: Data2VecOutput, media: Media) -> None:
    """What is hidden from the student in the first inputs of a batch."""
    grid, mask = output.features.grid, output.mask
    masked = mask.masked.unflatten(0, (-1, mask.num_masks)).cpu()  # [B, M, N]
    shown = _shown(encoder, batch.inputs[:_MOST_SHOWN], output.features.tokens[:_MOST_SHOWN], grid)
    if shown.texts is not None:
        lengths = [_WORDS] * len(shown.texts)
        if batch.padding_mask is not None:
            lengths = (~batch.padding_mask).sum(dim=1).clamp(max=_WORDS).tolist()
        texts = []
        for tokens, one, length in zip(shown.texts[:_TEXTS], masked[:, 0].tolist(), lengths, strict=False):
            texts.append(list(zip(tokens, one, strict=True))[:length])
        media.texts[metrics.TOKENS] = texts
        return
    assert shown.pictures is not None
    places = Places(grid, shown.turned)
    sheet = Sheet(_size(shown), places)
    groups = []
    for number in range(min(len(shown.pictures), sheet.most_inputs)):
        picture = picture_of(shown.pictures[number])
        hidden = [sheet.hidden(picture, one, places) for one in masked[number, : sheet.most_masks]]
        groups.append([sheet.tile_of(picture), *hidden])
    media.pictures[metrics.MASKS] = sheet.draw(groups)


def draw_features(encoder: Encoder, inputs: Tensor, padding: Tensor | None, media: Media) -> None:
    """What an encoder, in eval mode, makes of inputs: directions, likeness of places, neighbours, spectrum."""
    sequence = encoder.extract(inputs, padding)
    output = encoder.encode(sequence)
    tokens = output.tokens.float()
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if output.padding_mask is not None:
        valid = ~output.padding_mask
    extracted = sequence.tokens.float()
    if not (tokens.isfinite().all() and extracted.isfinite().all()):
        return
    for name, rows in (("features", tokens[valid]), ("feature extractor", extracted[valid])):
        media.spectra[name] = spectrum(evenly(rows, _ROWS)).tolist()
    shown = _shown(encoder, inputs, extracted, sequence.grid)
    places = Places(sequence.grid, shown.turned)
    sheet = Sheet(_size(shown), places)
    _draw_directions(tokens, valid, shown, places, sheet, media)
    _draw_similarity(tokens, valid, shown, places, sheet, media)
    _draw_neighbours(output, shown, sheet, media)


def _shown(encoder: Encoder, inputs: Tensor, tokens: Float[Tensor, "b n d"], grid: tuple[int, ...]) -> ShownInputs:
    """As the front end shows inputs; where it says nothing, the three main directions of the tokens as colours."""
    shown = encoder.front.show(inputs, encoder.assets)
    if shown is not None:
        return shown
    coloured = principal_colours(tokens.detach().float()).transpose(1, 2)
    return ShownInputs(coloured.unflatten(2, (-1, grid[-1])))  # a sequence is one row


def _size(shown: ShownInputs) -> tuple[int, int] | None:
    if shown.pictures is None:
        return None
    height, width = shown.pictures.shape[-2:]
    if height == 1:  # the tokens of a sequence as colours
        return None
    return height, width


def _draw_directions(
    tokens: Float[Tensor, "b n d"], valid: Tensor, shown: ShownInputs, places: Places, sheet: Sheet, media: Media
) -> None:
    """Their three main directions as colours. Of pictures the mean of each place is taken away first, else the colours
    of a pretrained encoder show where a patch is, and not what it is."""
    count = min(len(tokens), sheet.most_inputs)
    if sheet.is_column and len(tokens) > 1:
        tokens = tokens - tokens.mean(dim=0)
    tokens, valid = tokens[:count], valid[:count]
    painted = torch.ones(*tokens.shape[:2], 3, device=tokens.device)
    painted[valid] = principal_colours(tokens[valid][None])[0]
    groups = []
    for number in range(count):
        tiles = [sheet.tile_of(places.map_of(painted[number]))]
        if shown.pictures is not None:
            tiles = [sheet.tile_of(picture_of(shown.pictures[number])), *tiles]
        groups.append(tiles)
    media.pictures[metrics.FEATURES] = sheet.draw(groups)


def _draw_similarity(
    tokens: Float[Tensor, "b n d"], valid: Tensor, shown: ShownInputs, places: Places, sheet: Sheet, media: Media
) -> None:
    """Cosines: of a sequence between all places, of a picture with the patch in the middle, which is white."""
    tokens = F.normalize(tokens, dim=-1)
    if len(places.grid) == 1:
        matrices = []
        for one, there in zip(tokens[:_MATRICES], valid[:_MATRICES], strict=True):
            some = evenly(one[there], _MATRIX)
            matrices.append(square(some @ some.T))
        media.pictures[metrics.SIMILARITY] = table_of([matrices])
        return
    assert shown.pictures is not None
    rows, columns = places.grid
    middle = rows // 2 * columns + columns // 2
    groups = []
    for number in range(min(len(tokens), sheet.most_inputs)):
        likeness = tokens[number] @ tokens[number, middle]
        levels = (likeness - likeness.min()) / (likeness.max() - likeness.min()).clamp(min=1e-6)
        painted = torch.from_numpy(colours(levels.cpu().numpy()[None])[0])
        painted[middle] = 1.0
        groups.append([sheet.tile_of(picture_of(shown.pictures[number])), sheet.tile_of(places.map_of(painted))])
    media.pictures[metrics.SIMILARITY] = sheet.draw(groups)


def _draw_neighbours(output: EncoderOutput, shown: ShownInputs, sheet: Sheet, media: Media) -> None:
    """A row an input: itself, then the others whose mean features are most like its own."""
    pooled = F.normalize(mean_of_tokens(output.tokens.float(), output.padding_mask), dim=-1)
    likeness = pooled @ pooled.T
    likeness.fill_diagonal_(-2.0)
    nearest = likeness.topk(min(_NEIGHBOURS, len(pooled) - 1)).indices[:_QUERIES].tolist()
    if not nearest or not nearest[0]:
        return
    if shown.texts is not None:
        lines: list[MarkedText] = []
        for query, found in enumerate(nearest):
            lines.append([(_beginning(shown, query), True)])
            lines += [[(_beginning(shown, number), False)] for number in found[:2]]
        media.texts[metrics.NEIGHBOURS] = lines
    elif shown.pictures is not None:
        rows = []
        for query, found in enumerate(nearest):
            rows.append([resized(picture_of(shown.pictures[number]), sheet.small_tile) for number in (query, *found)])
        media.pictures[metrics.NEIGHBOURS] = table_of(rows)


def _beginning(shown: ShownInputs, number: int) -> str:
    assert shown.texts is not None
    return "".join(shown.texts[number][: _WORDS // 4])
