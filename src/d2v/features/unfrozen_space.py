"""Trains the encoders of a shared space together with its projections."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from d2v.checkpoints.folder import StateDict
from d2v.checkpoints.load import Weights
from d2v.data.normalisation import normalised
from d2v.data.sources.source import printable
from d2v.features.contrastive import Rows, contrastive_loss
from d2v.features.embed import open_pieces
from d2v.features.feature_settings import SPACE_OPTIONS
from d2v.features.frozen_space import Features, frozen_space, meanings
from d2v.features.pairs import Pairs
from d2v.features.part_means import levels_of
from d2v.features.pieces import Pieces
from d2v.features.shared_space import Projection, SharedSpace
from d2v.model.encoder import Encoder, select_layer
from d2v.progress_bar import Progress

_JUDGED = 0.2  # of the rows: they say when to stop
_EPOCHS, _PATIENCE = 20, 3
_BATCH = 32
_LEARNING_RATE, _WEIGHT_DECAY = 1e-4, 0.01
_TEMPERATURE = 0.1


def unfrozen_space(
    media: dict[str, tuple[str, Encoder]],
    features: Features,
    pairs: Pairs,
    root: str,
    width: int,
    weights: Weights,
    seed: int,
    device: torch.device,
) -> SharedSpace:
    """A new space whose encoders were trained on the rows, too; it starts as that of
    :func:`~d2v.features.frozen_space.frozen_space`, whose arguments are the same.

    A fifth of the rows is held out and judges each epoch; the best one stays, which may be none at all. The encoders
    are changed in place. They have no dropout and no stochastic depth while they learn, and see the beginning of inputs
    that are too long to be encoded at once.

    Raises:
        UserError: As there, or the rows share too many files and texts for some to be held out.
    """
    trained, judged = pairs.split(_JUDGED, seed)
    space = frozen_space(media, features, trained, width, weights, seed)
    before: dict[str, StateDict] = {}
    readers = {}
    for name, (_, encoder) in media.items():
        before[name] = _copy(encoder)
        readers[name] = _Reader(encoder.eval(), space.media[name], pairs, name, root, device)
    model = nn.ModuleDict(readers)
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    of_trained, of_judged = meanings(trained), meanings(judged)
    generator = torch.Generator().manual_seed(seed)
    best, lowest, waited = _copy(model), float("inf"), 0
    batches = -(-len(trained) // _BATCH)
    with Progress(total=_EPOCHS * batches, desc="training the encoders", leave=False) as bar:
        for epoch in range(_EPOCHS + 1):
            with torch.no_grad():
                loss = float(_loss(readers, of_judged))
            bar.set_postfix(held_out=f"{loss:.3f}")
            waited += 1
            if loss < lowest:
                best, lowest, waited = _copy(model), loss, 0
            if epoch == _EPOCHS or waited == _PATIENCE:
                break
            for batch in torch.randperm(len(trained), generator=generator).split(_BATCH):
                optimizer.zero_grad()
                _loss(readers, {name: items[batch] for name, items in of_trained.items()}).backward()
                optimizer.step()
                bar.update()
    model.load_state_dict(best)
    learned = {}
    for name, reader in readers.items():
        learned[name] = reader.projection(before[name])
    return replace(space, media=learned)


class _Reader(nn.Module):
    """From items of one medium to vectors in the space, with gradients.

    Args:
        encoder: Of the medium, on ``device``.
        start: Its projection as it starts.
        pairs: Rows that all items are of.
        name: Of the medium.
        root: Folder that paths are relative to.
        device: Where to compute.
    """

    mean: Tensor

    def __init__(
        self, encoder: Encoder, start: Projection, pairs: Pairs, name: str, root: str, device: torch.device
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.weight = nn.Parameter(torch.from_numpy(start.weight.copy()).to(device))
        self.register_buffer("mean", torch.from_numpy(start.mean).to(device))
        self._start, self._device = start, device
        used = torch.from_numpy(pairs.rows[name]).unique()
        used = used[used >= 0].numpy()
        listed = pairs.listed(name, used, root)
        self._pieces: Pieces = open_pieces(encoder, listed, SPACE_OPTIONS, device, cut_silence=True)
        numbers = {cell: number for number, cell in enumerate(self._pieces.inputs.names)}
        self._input_of: dict[int, int] = {}
        for item, cell in zip(used.tolist(), listed.cells, strict=True):
            self._input_of[item] = numbers.get(cell, numbers.get(printable(cell), -1))

    def forward(self, items: Int64[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """Vectors of length 1; zeros for those that are missing (-1)."""
        alike: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        for item in items.unique().tolist():
            if item >= 0:
                x = self._pieces.read(self._pieces.first_piece(self._input_of[item]))
                alike[tuple(x.shape)].append((item, x))
        vectors = self.weight.new_zeros(len(items), len(self.weight))
        for group in alike.values():
            batch = normalised(torch.stack([x for _, x in group]).to(self._device), self.encoder.assets)
            tokens = select_layer(self.encoder(batch), SPACE_OPTIONS.layer)
            pooled = pyramid(tokens, self._start.parts, self._pieces.inputs.grid)
            found = F.normalize((pooled - self.mean) @ self.weight.T, dim=1)
            for number, (item, _) in enumerate(group):
                vectors = torch.where((items == item).to(self._device)[:, None], found[number], vectors)
        return vectors

    def projection(self, before: StateDict) -> Projection:
        """As it is now, with what of the encoder is not as before."""
        learned = {}
        for name, value in self.encoder.state_dict().items():
            if not torch.equal(value, before[name]):
                learned[name] = value.detach().cpu().clone()
        return replace(self._start, weight=self.weight.detach().cpu().numpy(), learned=learned)


def pyramid(tokens: Float[Tensor, "b n d"], finest: int, grid: tuple[int, int] | None) -> Float[Tensor, "b f"]:
    """What :func:`~d2v.features.part_means.part_means` computes, of a batch and with gradients."""
    pooled = []
    for parts in levels_of(grid):
        if parts <= finest and grid is None:
            pooled.append(F.adaptive_avg_pool1d(tokens.mT, parts))
        elif parts <= finest:
            pooled.append(F.adaptive_avg_pool2d(tokens.mT.unflatten(2, grid), parts).flatten(2))
    return torch.cat(pooled, dim=2).mT.flatten(1)


def _loss(readers: Mapping[str, _Reader], rows: Rows) -> Float[Tensor, ""]:
    vectors = {name: reader(rows[name]) for name, reader in readers.items()}
    device = next(iter(vectors.values())).device
    on_device = {name: items.to(device) for name, items in rows.items()}
    return contrastive_loss(vectors, on_device, torch.tensor(_TEMPERATURE, device=device).log())


def _copy(module: nn.Module) -> StateDict:
    return {name: value.clone() for name, value in module.state_dict().items()}
