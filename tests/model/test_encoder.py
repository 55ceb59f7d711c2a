"""What the student sees, positions of any size, padding, memory saving and features."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from d2v.checkpoints.recipe import build_encoder
from d2v.errors import UserError
from d2v.model.encoder import Encoder
from d2v.model.masked_input import gather_tokens
from d2v.model.masking import InverseBlockMasking
from d2v.model.targets import TopKTargets
from d2v.nn.positional import (
    AttentionBias,
    PositionTable,
    RelativePositionBias,
    relative_position_index,
    sincos_table_2d,
)
from d2v.nn.transformer import Transformer, TransformerOutput
from d2v.types import Batch, EncoderOutput, Mask, TokenSequence

close = torch.testing.assert_close


def random_mask(samples: int, tokens: int, masked: int, num_masks: int = 1) -> Mask:
    order = torch.rand(samples * num_masks, tokens, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    return Mask.from_dense(order < masked, masked, num_masks)


def same(a: EncoderOutput, b: EncoderOutput, **tolerance: float) -> None:
    for x, y in zip(
        [a.tokens, *a.layers, *a.ffn_outputs, *([] if a.cls is None else [a.cls])],
        [b.tokens, *b.layers, *b.ffn_outputs, *([] if b.cls is None else [b.cls])],
        strict=True,
    ):
        close(x, y, **tolerance)


# Masked content


@pytest.mark.parametrize("num_cls", [0, 1])
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("masked_input", ["drop", "replace"])
def test_the_student_does_not_see_masked_content(token_encoder, masked_input, mixing, num_cls):
    encoder = token_encoder(masked_input, mixing, num_cls)
    tokens = torch.randn(3, 10, 16)
    mask = random_mask(3, 10, 6, num_masks=2)
    seen = encoder.encode(TokenSequence(tokens, (10,)), mask)
    # Sample 0 is changed at the tokens that both of its rows mask.
    masked_in_both = mask.masked.view(3, 2, 10).all(dim=1)
    assert masked_in_both.any()
    changed = torch.where(masked_in_both[..., None], torch.full_like(tokens, 1e3), tokens)
    seen_changed = encoder.encode(TokenSequence(changed, (10,)), mask)
    same(seen, seen_changed, rtol=0, atol=0)
    # And what is visible does matter, in each row.
    visible_somewhere = torch.where(masked_in_both[..., None], tokens, tokens + torch.randn_like(tokens))
    other = encoder.encode(TokenSequence(visible_somewhere, (10,)), mask)
    assert (other.tokens - seen.tokens).abs().amax(dim=(1, 2)).min() > 1e-3


def test_masked_content_gets_no_gradient(token_encoder):
    for masked_input in ("drop", "replace"):
        encoder = token_encoder(masked_input, mixing=True)
        tokens = torch.randn(2, 8, 16, requires_grad=True)
        mask = random_mask(2, 8, 5)
        encoder.encode(TokenSequence(tokens, (8,)), mask).tokens.square().sum().backward()
        assert tokens.grad[mask.masked].abs().max() == 0
        assert tokens.grad[~mask.masked].abs().amax(dim=-1).min() > 0


def test_replaced_tokens_are_told_apart_by_their_positions(vision_encoder):
    encoder = vision_encoder(masked_input="replace", positions="learned")
    sequence = encoder.extract(torch.randn(2, 3, 24, 24))
    mask = random_mask(2, 36, 20)
    output = encoder.encode(sequence, mask)
    assert output.tokens.shape == (2, 36, 16)
    by_hand = torch.where(mask.masked[..., None], encoder.front.masked_input.mask_token, sequence.tokens)
    same(output, encoder.encode(TokenSequence(by_hand, (6, 6))), rtol=0, atol=1e-6)
    masked = output.tokens[0, mask.masked_index[0]]
    assert torch.cdist(masked, masked).fill_diagonal_(1).min() > 1e-3


# Dropping


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("relative_bias", [None, "shared", "per_block"])
@pytest.mark.parametrize("positions", ["sincos", "learned", None])
def test_dropping_equals_encoding_the_kept_tokens_with_their_own_positions(
    vision_encoder, positions, relative_bias, norm_first
):
    encoder = vision_encoder(
        positions=positions, relative_bias=relative_bias, norm_first=norm_first, prenet_depth=1, num_cls=2
    )
    sequence = encoder.extract(torch.randn(2, 3, 24, 24))
    mask = InverseBlockMasking(0.7, 2).forward(_ids(2), (6, 6), 3, 0)
    output = encoder.encode(sequence, mask)
    assert output.tokens.shape == (6, 11 - 1, 16)
    for row in range(6):
        kept = (~mask.masked[row]).nonzero().flatten().tolist()
        x = sequence.tokens[row // 3]
        cls = encoder.front.cls_token
        if positions is not None:
            x = x + encoder.front.positions.table
            cls = encoder.front.positions.encode_cls(cls[None])[0]
        x = torch.cat([cls, torch.stack([x[i] for i in kept])])[None]
        bias = None
        if relative_bias is not None:
            full = encoder.front.attention_bias((6, 6), 2, None)  # [L, 1, H, T, T]
            places = [0, 1, *(i + 2 for i in kept)]
            bias = torch.stack([full[..., i, :] for i in places], dim=-2)
            bias = torch.stack([bias[..., i] for i in places], dim=-1)
        by_hand = through_the_blocks(encoder, x, bias)
        close(output.tokens[row], by_hand.x[0, 2:], rtol=0, atol=1e-5)
        close(output.cls[row], by_hand.x[0, :2], rtol=0, atol=1e-5)
        close(output.ffn_outputs[1][row], by_hand.blocks[1].ffn[0, 2:], rtol=0, atol=1e-5)
        close(output.layers[0][row], by_hand.blocks[0].end[0, 2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_tables", [1, 3])
def test_relative_bias_follows_the_kept_tokens(num_tables):
    bias = RelativePositionBias((3, 5), num_heads=2, num_tables=num_tables)
    with torch.no_grad():
        bias.table.normal_()
    full = bias((3, 5), 1, None)[:, 0]
    kept = torch.tensor([[0, 4, 7, 14], [1, 2, 3, 13]])
    some = bias((3, 5), 1, kept)
    assert some.shape == (num_tables, 2, 2, 5, 5)
    for row in range(2):
        places = [0, *(kept[row] + 1).tolist()]
        for i, query in enumerate(places):
            for j, key in enumerate(places):
                close(some[:, row, :, i, j], full[:, :, query, key], rtol=0, atol=0)


def test_relative_position_index_is_beits():
    """One entry an offset; query CLS, key CLS and both have the last three (BEiT's RelativePositionBias)."""
    index = relative_position_index((2, 3), 1, torch.device("cpu"))
    rows, columns = 3, 5
    for query in range(6):
        for key in range(6):
            row, column = query // 3 - key // 3 + 1, query % 3 - key % 3 + 2
            assert index[query + 1, key + 1] == row * columns + column
    assert set(index[0, 1:].tolist()) == {rows * columns}
    assert set(index[1:, 0].tolist()) == {rows * columns + 1}
    assert index[0, 0] == rows * columns + 2


def test_gather_tokens_reads_the_samples_of_the_rows():
    tokens = torch.randn(2, 5, 3, requires_grad=True)
    index = torch.tensor([[0, 4], [1, 1], [2, 3], [4, 0]])
    picked = gather_tokens(tokens, index)
    by_hand = torch.stack([tokens[row // 2, index[row]] for row in range(4)])
    close(picked, by_hand, rtol=0, atol=0)
    weights = torch.randn_like(picked)
    close(*(torch.autograd.grad((x * weights).sum(), tokens)[0] for x in (picked, by_hand)))


# Any height and width


@pytest.mark.parametrize("relative_bias", [None, "shared", "per_block"])
@pytest.mark.parametrize("positions", ["sincos", "learned", None])
@pytest.mark.parametrize("size", [(24, 24), (16, 32), (36, 20), (4, 4)])
def test_pictures_of_any_size(vision_encoder, size, positions, relative_bias):
    encoder = vision_encoder(positions=positions, relative_bias=relative_bias)
    output = encoder(torch.randn(2, 3, *size))
    assert output.tokens.shape == (2, size[0] * size[1] // 16, 16)
    assert output.tokens.isfinite().all()
    grid = (size[0] // 4, size[1] // 4)
    if grid != (1, 1):
        masked = encoder.encode(
            encoder.extract(torch.randn(2, 3, *size)), InverseBlockMasking(0.5, 2)(_ids(2), grid, 2, 0)
        )
        assert masked.tokens.shape[0] == 4
        assert masked.tokens.isfinite().all()


def test_a_size_that_the_patch_does_not_divide_is_refused(vision_encoder):
    with pytest.raises(UserError, match="25 x 24 pixels"):
        vision_encoder()(torch.randn(1, 3, 25, 24))
    with pytest.raises(ValueError, match="image_size"):
        vision_encoder(image_size=(24, 26))


def test_non_square_tables_are_row_major(vision_encoder):
    """A patch's position must be that of its place in the picture, on a grid whose sides differ."""
    encoder = vision_encoder(image_size=(12, 20))
    assert encoder.extract(torch.zeros(1, 3, 12, 20)).grid == (3, 5)
    table = sincos_table_2d((3, 5), 16)
    for row in range(3):
        for column in range(5):
            angles = [axis * 10000 ** (-i / 4) for axis in (column, row) for i in range(4)]
            sines, cosines = torch.tensor(angles).sin(), torch.tensor(angles).cos()
            expected = torch.cat([sines[:4], cosines[:4], sines[4:], cosines[4:]])
            close(table[row * 5 + column], expected, rtol=0, atol=1e-6)
    close(encoder.front.positions(TokenSequence(torch.zeros(1, 15, 16), (3, 5)))[0], table, rtol=0, atol=0)


def _table_at(table: PositionTable, grid: tuple[int, int]) -> Tensor:
    return table(TokenSequence(torch.zeros(1, grid[0] * grid[1], 4), grid))[0].unflatten(0, grid)


def test_positions_of_another_size_are_interpolated():
    table = PositionTable((6, 6), 4, sincos=False)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    with torch.no_grad():  # linear in the coordinates
        table.table.copy_(torch.stack([rows, columns, rows + columns, torch.ones_like(rows)], dim=-1).flatten(0, 1))
    close(_table_at(table, (6, 6)).flatten(0, 1), table.table, rtol=0, atol=0)
    for grid in ((12, 9), (6, 12), (4, 6), (3, 3)):
        at = _table_at(table, grid)
        # Pixel centres: position i of n lies at (i + 0.5) * 6 / n - 0.5 of the old grid.
        expected_rows = (torch.arange(grid[0]) + 0.5) * 6 / grid[0] - 0.5
        expected_columns = (torch.arange(grid[1]) + 0.5) * 6 / grid[1] - 0.5
        inner = (slice(grid[0] // 3, -(grid[0] // 3)), slice(grid[1] // 3, -(grid[1] // 3)))  # borders are clamped
        close(at[..., 0][inner], expected_rows[:, None].expand(grid)[inner], rtol=0, atol=0.15)
        close(at[..., 1][inner], expected_columns[None].expand(grid)[inner], rtol=0, atol=0.15)
        close(at[..., 3], torch.ones(grid), rtol=0, atol=1e-5)
        assert (at[..., 0].diff(dim=0) > 0).all()
        assert (at[..., 1].diff(dim=1) > 0).all()


def test_interpolated_relative_bias_depends_on_the_offset_alone_and_keeps_its_sign():
    bias = RelativePositionBias((5, 5), num_heads=1)
    offsets = torch.arange(-4.0, 5)
    with torch.no_grad():
        bias.table[0, :-3, 0] = (10 * offsets[:, None] + offsets[None]).flatten()
        bias.table[0, -3:, 0] = torch.tensor([100.0, 200.0, 300.0])
    full = bias((7, 4), 1, None)[0, 0, 0]
    assert full[0, 0] == 300
    assert (full[0, 1:] == 100).all()
    assert (full[1:, 0] == 200).all()
    patches = full[1:, 1:].view(7, 4, 7, 4)
    close(patches[1:, 1:, 1:, 1:], patches[:-1, :-1, :-1, :-1], rtol=0, atol=1e-5)
    close(patches, -patches.permute(2, 3, 0, 1), rtol=0, atol=1e-4)
    assert (patches[:, 0, 0, 0].diff() > 0).all()
    assert (patches[0, :, 0, 0].diff() > 0).all()
    close(bias((5, 5), 0, None)[0, 0, 0, 0], -(10 * torch.arange(5)[:, None] + torch.arange(5)).flatten().float())


# Padding


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("num_cls", [0, 1])
@pytest.mark.parametrize("mixing", [False, True])
def test_padding_leaves_valid_tokens_alone(token_encoder, mixing, num_cls, norm_first):
    encoder = token_encoder(mixing=mixing, num_cls=num_cls, norm_first=norm_first)
    x = torch.randn(3, 9, 16)
    lengths = [9, 6, 4]
    padding_mask = torch.arange(9)[None] >= torch.tensor(lengths)[:, None]
    x[padding_mask] = 50.0
    output = encoder(x, padding_mask)
    assert torch.equal(output.padding_mask, padding_mask)
    targets = TopKTargets(2, "ffn", "instance", "layer")
    padded_targets = targets(output)
    for row, length in enumerate(lengths):
        alone = encoder(x[row : row + 1, :length])
        close(output.tokens[row, :length], alone.tokens[0], rtol=0, atol=1e-5)
        for layer, alone_layer in zip(output.layers, alone.layers, strict=True):
            close(layer[row, :length], alone_layer[0], rtol=0, atol=1e-5)
        if num_cls:
            close(output.cls[row], alone.cls[0], rtol=0, atol=1e-5)
        close(padded_targets[row, :length], targets(alone)[0], rtol=0, atol=1e-4)
        close(
            encoder.embed(x, padding_mask=padding_mask)[row],
            encoder.embed(x[row : row + 1, :length])[0],
            rtol=0,
            atol=1e-5,
        )


@pytest.mark.parametrize("num_tables", [1, 3])
def test_padding_adds_to_a_bias(token_encoder, num_tables):
    class Bias(AttentionBias):
        values = torch.randn(num_tables, 1, 2, 7, 7)

        def forward(self, grid, num_cls, visible_index):
            return self.values[..., : grid[0], : grid[0]]

    encoder = token_encoder(prenet_depth=1)
    encoder.front.attention_bias = Bias()
    x = torch.randn(2, 7, 16)
    padding_mask = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
    padded = encoder(x, padding_mask).tokens
    close(padded[1, :5], encoder(x[1:, :5]).tokens[0], rtol=0, atol=1e-5)
    close(padded[0], encoder(x[:1]).tokens[0], rtol=0, atol=1e-5)
    by_hand = through_the_blocks(encoder, encoder.extract(x).tokens, Bias.values).x
    close(encoder(x).tokens, by_hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masked_input", ["drop", "replace"])
def test_padding_with_a_mask(token_encoder, masked_input):
    encoder = token_encoder(masked_input, mixing=True)
    x = torch.randn(2, 8, 16)
    padding_mask = torch.tensor([[False] * 8, [False] * 6 + [True] * 2])
    masked = torch.tensor([[1, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, 0, 0]]).bool()
    output = encoder.encode(encoder.extract(x, padding_mask), Mask.from_dense(masked, 2))
    alone = encoder.encode(encoder.extract(x[1:, :6]), Mask.from_dense(masked[1:, :6], 2))
    assert output.padding_mask.sum(dim=1).tolist() == [0, 2]
    valid = ~output.padding_mask[1]
    close(output.tokens[1][valid], alone.tokens[0], rtol=0, atol=1e-5)


# Memory saving


@pytest.mark.parametrize("relative_bias", [None, "per_block"])
def test_activation_checkpointing_changes_nothing_but_memory(vision_encoder, relative_bias):
    changes = {
        "relative_bias": relative_bias,
        "depth": 8,
        "prenet_depth": 1,
        "dropout": 0.2,
        "attention_dropout": 0.1,
        "drop_path": 0.3,
        "layer_drop": 0.2,
    }
    results, kept = [], []
    for share in (0.0, 0.25, 0.5, 1.0):
        encoder = vision_encoder(checkpoint_activations=share, **changes).train()
        torch.manual_seed(3)
        counting = KeptBytes()
        with counting:
            output = encoder(torch.linspace(-1, 1, 2 * 3 * 24 * 24).view(2, 3, 24, 24))
        (output.tokens.square().sum() + output.ffn_outputs[0].sum()).backward()
        results.append((output, {name: p.grad for name, p in encoder.named_parameters() if p.requires_grad}))
        kept.append(counting.total / 1e6)
    for output, grads in results[1:]:
        same(results[0][0], output, rtol=0, atol=0)
        assert results[0][1].keys() == grads.keys()
        for name, grad in results[0][1].items():
            close(grad, grads[name], rtol=0, atol=0, msg=name)
    print("MB kept for the backward pass:", kept)
    assert kept == sorted(kept, reverse=True)
    assert kept[3] < 0.3 * kept[0]


@pytest.mark.parametrize(
    ("share", "expected"), [(0, ""), (0.25, "37"), (0.5, "1357"), (0.75, "123567"), (1, "01234567"), (0.01, "")]
)
def test_checkpointed_blocks_are_evenly_spread(share, expected):
    stack = Transformer(8, 8, 2, checkpoint_activations=share).blocks
    assert [number for number, again in enumerate(stack.computed_again) if again] == list(map(int, expected))


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_refused_shares_of_checkpointed_blocks(share):
    with pytest.raises(ValueError, match=f"checkpoint_activations is {share}: it must lie between 0 and 1"):
        Transformer(8, 1, 2, checkpoint_activations=share)


class KeptBytes(saved_tensors_hooks):
    """Counts what the forward pass keeps for the backward pass."""

    def __init__(self) -> None:
        self.total = 0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        self.total += tensor.nbytes
        return tensor


# Features


def test_embed_chooses_layer_and_pooling(vision_encoder):
    encoder = vision_encoder(depth=3)
    x = torch.randn(2, 3, 24, 24)
    output = encoder(x)
    close(encoder.embed(x), output.tokens.mean(dim=1))
    assert not encoder.embed(x).requires_grad
    close(encoder.embed(x, pool="none"), output.tokens)
    close(encoder.embed(x, pool="cls"), output.cls[:, 0])
    for layer in range(3):
        close(encoder.embed(x, layer=layer, pool="none"), output.layers[layer])
        close(encoder.embed(x, layer=layer - 3), output.layers[layer].mean(dim=1))
    close(encoder.embed(x, layer="mean", pool="none"), sum(output.layers) / 3)
    close(encoder.embed(x, layer=[0, -1]), ((output.layers[0] + output.layers[2]) / 2).mean(dim=1))
    close(encoder.embed(x, layer=[1]), encoder.embed(x, layer=1))
    assert (output.layers[0] - output.layers[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"layer 3 .* 3 layers, 0 to 2"):
        encoder.embed(x, layer=3)
    with pytest.raises(ValueError, match="layer -4"):
        encoder.embed(x, layer=-4)
    for layers in ([], [0, -3]):
        with pytest.raises(ValueError, match="each of them once"):
            encoder.embed(x, layer=layers)
    with pytest.raises(ValueError, match="layer 7"):
        encoder.embed(x, layer=[0, 7])
    with pytest.raises(ValueError, match="no CLS token"):
        vision_encoder(num_cls=0).embed(x, pool="cls")
    with pytest.raises(ValueError, match="last layer only"):
        encoder.embed(x, layer=1, pool="cls")


def test_the_recipe_builds_the_encoder_again(vision_encoder):
    encoder = vision_encoder(depth=3, relative_bias="shared", layer_scale=0.1, num_cls=1)
    assert encoder.recipe["front"]["class_path"] == "d2v.modalities.vision.front_end.VisionFrontEnd"
    assert encoder.recipe["trunk"]["depth"] == 3
    again = build_encoder(encoder.recipe)
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 3, 24, 24)
    close(again.eval()(x).tokens, encoder(x).tokens, rtol=0, atol=0)


def _ids(count: int) -> Batch:
    return Batch(torch.empty(count, 0), torch.arange(count), torch.zeros(count, dtype=torch.long))


def through_the_blocks(encoder: Encoder, x: torch.Tensor, bias: torch.Tensor | None) -> TransformerOutput:
    """Norm, prenet and trunk with one bias a block, or one for all."""
    prenet, trunk = bias, bias
    if bias is not None and len(bias) > 1:
        prenet, trunk = bias[: len(encoder.front.prenet)], bias[len(encoder.front.prenet) :]
    x, _ = encoder.front.prenet(encoder.front.input_norm(x), prenet)
    return encoder.trunk(x, trunk)
