"""The parts of text: tokens in place of masked ones, positions, `<s>`; and above all that padding changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import data2vec, step, text_encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import d2v
from d2v.checkpoints.folder import write_folder
from d2v.errors import UserError
from d2v.model.data2vec import Data2Vec
from d2v.model.encoder import Encoder
from d2v.model.heads import ConvDecoder1d, MLPHead
from d2v.model.losses import RegressionLoss
from d2v.model.masked_input import ReplaceTokens
from d2v.model.masking import RandomMasking, RandomSpanMasking
from d2v.model.targets import TopKTargets
from d2v.nn.positional import LearnedPositions
from d2v.training.module import Data2VecModule, Pretraining
from d2v.training.schedules import EMADecay, WarmupCosine
from d2v.types import Batch, Mask, TokenSequence

VOCAB = 50
SHARED = ("feature_extractor", "positions", "input_norm")
VERSIONS = ["1.0", "BERT's masking", "2.0"]
close = torch.testing.assert_close


def make_encoder(**changes: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = text_encoder(
        **{"vocab_size": VOCAB, "width": 16, "depth": 2, "num_heads": 2, "max_positions": 40, **changes}
    )
    with torch.no_grad():  # off the initial values, where zeros and ones hide mistakes
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return encoder.eval()


def parts(version: str) -> dict[str, Any]:
    """Arguments of the method."""
    common: dict[str, Any] = {"loss": RegressionLoss(), "shared_with_teacher": SHARED}
    if version == "2.0":
        head = lambda width: ConvDecoder1d(  # noqa: E731
            width, 8, 2, 5, 1, mask_noise=0.0, residual=False, projection_layers=2
        )
        targets = TopKTargets(2, layer_norm="instance")
        return {**common, "masking": RandomMasking(0.48), "targets": targets, "head": head, "num_masks": 3}
    masking = RandomSpanMasking(0.35, 4, inside=False) if version == "1.0" else RandomMasking(0.5)
    return {**common, "masking": masking, "targets": TopKTargets(2, layer_norm="layer"), "head": MLPHead}


def make_student(version: str) -> Encoder:
    tokens = {"random_tokens": 0.2, "unchanged_tokens": 0.2} if version == "BERT's masking" else {}
    return make_encoder(masked_input="drop" if version == "2.0" else "replace", **tokens)


def make_method(version: str) -> Data2Vec:
    return data2vec(student=make_student(version), **parts(version)).eval()


def padded_batch(lengths: tuple[int, ...] = (32, 9, 20)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB - 1, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = 0
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    rows = torch.arange(len(lengths))
    return Batch(ids.masked_fill(padding, 1), rows + 7, torch.ones_like(rows), None, padding)


def alone(batch: Batch, row: int) -> Batch:
    length = int((~batch.padding_mask[row]).sum())
    return Batch(batch.inputs[row : row + 1, :length], batch.sample_ids[row : row + 1], batch.epochs[row : row + 1])


# Padding


@pytest.mark.parametrize("settings", [{}, {"alibi": True}, {"alibi": True, "max_positions": None}, {"prenet_depth": 1}])
def test_a_padded_text_has_the_features_of_the_text_alone(settings):
    encoder, batch = make_encoder(**settings), padded_batch()
    together = encoder(batch.inputs, batch.padding_mask)
    assert torch.equal(together.padding_mask, batch.padding_mask)
    for row in range(3):
        single = encoder(alone(batch, row).inputs)
        length = single.tokens.shape[1]
        close(together.tokens[row, :length], single.tokens[0], rtol=0, atol=1e-5)
        for layer, expected in zip(
            together.layers + together.ffn_outputs, single.layers + single.ffn_outputs, strict=True
        ):
            close(layer[row, :length], expected[0], rtol=0, atol=1e-5)
        for pool in ("mean", "cls"):
            pooled = encoder.embed(batch.inputs, padding_mask=batch.padding_mask, pool=pool)[row]
            close(pooled, encoder.embed(alone(batch, row).inputs, pool=pool)[0], rtol=0, atol=1e-5)


def test_what_stands_at_padding_does_not_matter():
    encoder, batch = make_encoder(), padded_batch()
    other = torch.where(batch.padding_mask, 17, batch.inputs)
    valid = ~batch.padding_mask
    features = [encoder(ids, batch.padding_mask).tokens[valid] for ids in (batch.inputs, other)]
    close(*features, rtol=0, atol=0)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_text_has_the_mask_targets_and_loss_of_the_text_alone(version):
    method, batch = make_method(version), padded_batch()
    together = step(method, batch)
    rows = method.task.num_masks
    total, count = torch.zeros(()), 0
    for row in range(3):
        single = step(method, alone(batch, row))
        length = single.mask.masked.shape[1]
        mine = slice(row * rows, (row + 1) * rows)
        assert torch.equal(together.mask.masked[mine, :length], single.mask.masked)
        assert not together.mask.masked[mine, length:].any()
        scored = together.mask.scored[mine]
        close(together.targets[mine][scored], single.targets.flatten(0, 1), rtol=0, atol=1e-5)
        close(together.predictions[mine][scored], single.predictions.flatten(0, 1), rtol=0, atol=1e-5)
        total = total + single.loss * single.mask.masked.sum()
        count += int(single.mask.masked.sum())
    close(together.loss, total / count, rtol=1e-5, atol=0)  # a mean over the masked tokens of the batch


@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_batch_trains_every_parameter(version):
    method = make_method(version).train()
    step(method, padded_batch()).loss.backward()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


# What stands in place of masked tokens


def sequence_of(ids: Tensor) -> TokenSequence:
    """Tokens whose vectors are their ids."""
    vocabulary = torch.arange(VOCAB).float()[:, None]
    return TokenSequence(vocabulary[ids], (ids.shape[1],), None, vocabulary)


def mask_of(batch: Batch, num_masks: int = 1, ratio: float = 0.5) -> Mask:
    return RandomMasking(ratio)(batch, (batch.inputs.shape[1],), num_masks, 0)


def many_tokens(rows: int = 60, length: int = 500) -> Batch:
    ids = torch.randint(4, VOCAB - 1, (rows, length), generator=torch.Generator().manual_seed(3))
    return Batch(ids, torch.arange(rows), torch.zeros(rows, dtype=torch.int64))


def test_shares_of_replaced_random_and_unchanged_tokens():
    batch = many_tokens()
    mask = mask_of(batch)
    seen = (
        ReplaceTokens(VOCAB - 1, random=0.1, unchanged=0.1).hide(sequence_of(batch.inputs), mask, False)[..., 0].long()
    )
    assert torch.equal(seen[~mask.masked], batch.inputs[~mask.masked])
    before, after = batch.inputs[mask.masked], seen[mask.masked]  # 15,000 tokens
    replaced = after == VOCAB - 1
    unchanged = after == before
    others = after[~replaced & ~unchanged]
    assert replaced.float().mean().item() == pytest.approx(0.8, abs=0.015)  # four deviations
    # A random type may be the token's own, once in the 45 types that are drawn from.
    assert unchanged.float().mean().item() == pytest.approx(0.1 + 0.1 / 45, abs=0.01)
    assert others.min() == 4  # no special type, neither the first four nor <mask>
    assert others.max() == VOCAB - 2
    counts = others.bincount(minlength=VOCAB)[4 : VOCAB - 1].float()
    assert counts.std() < 3 * counts.mean().sqrt()


@pytest.mark.parametrize(("random", "unchanged"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_extreme_shares(random, unchanged):
    batch = many_tokens(4, 100)
    mask = mask_of(batch)
    seen = ReplaceTokens(VOCAB - 1, random, unchanged).hide(sequence_of(batch.inputs), mask, False)[..., 0].long()
    replaced = (seen[mask.masked] == VOCAB - 1).float().mean()
    assert replaced == (1.0 if random + unchanged == 0 else 0.0)
    assert (unchanged == 1.0) == torch.equal(seen, batch.inputs)


def test_replaced_tokens_are_the_same_whatever_the_batch():
    batch, hide = many_tokens(6, 50), ReplaceTokens(VOCAB - 1, 0.3, 0.3).hide
    mask = mask_of(batch, num_masks=2)
    together = hide(sequence_of(batch.inputs), mask, False)
    for row in range(6):
        single = Batch(batch.inputs[row : row + 1], batch.sample_ids[row : row + 1], batch.epochs[row : row + 1])
        one = mask_of(single, num_masks=2)
        rows = slice(2 * row, 2 * row + 2)
        assert torch.equal(one.masked, mask.masked[rows])
        assert torch.equal(hide(sequence_of(single.inputs), one, False), together[rows])
    assert not torch.equal(together[0], together[1])  # two masks of one text
    assert torch.equal(hide(sequence_of(batch.inputs), mask, False), together)


def test_replacing_needs_a_vocabulary_and_random_tokens_need_keys():
    batch = many_tokens(2, 10)
    mask = mask_of(batch)
    sequence = sequence_of(batch.inputs)
    with pytest.raises(ValueError, match="needs tokens of a vocabulary"):
        ReplaceTokens(VOCAB - 1).hide(TokenSequence(sequence.tokens, sequence.grid), mask, False)
    keyless = Mask.from_dense(mask.masked, 5)
    assert (ReplaceTokens(VOCAB - 1).hide(sequence, keyless, False)[keyless.masked] == VOCAB - 1).all()
    with pytest.raises(ValueError, match="drawn by the keys"):
        ReplaceTokens(VOCAB - 1, 0.1).hide(sequence, keyless, False)
    with pytest.raises(ValueError, match="must be shares of one whole"):
        ReplaceTokens(VOCAB - 1, 0.6, 0.5)


def test_the_embedding_of_mask_is_trained_only_where_it_is_read():
    for version in VERSIONS:
        method = make_method(version)
        step(method, padded_batch()).loss.backward()
        gradient = method.student.front.feature_extractor.embedding.weight.grad
        assert gradient[-1].any() == (version != "2.0")


# RandomMasking


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=6),
    st.floats(0.05, 0.95),
    st.integers(0, 2**40),
)
@example([512, 512], 0.48, 0)
@example([1], 0.5, 3)
def test_random_masks_have_exact_counts_within_each_text(lengths, ratio, key):
    masking, keys = RandomMasking(ratio), torch.arange(key, key + len(lengths))
    masked = masking.sample(keys, (max(lengths),), torch.tensor(lengths))
    counts = [masking.num_masked((length,)) for length in lengths]
    assert masked.sum(dim=1).tolist() == counts
    # fairseq keeps int((1 - ratio) * N); the ratio is taken to six decimals.
    assert all(
        abs(length - count - int((1 - ratio) * length)) <= 1 for length, count in zip(lengths, counts, strict=True)
    )
    for i, length in enumerate(lengths):  # who shares the batch, and how long it is, changes nothing
        assert not masked[i, length:].any()
        assert torch.equal(masking.sample(keys[i : i + 1], (length,))[0], masked[i, :length])


def test_random_masks_prefer_no_place():
    masking = RandomMasking(0.48)
    assert masking.num_masked((512,)) == 512 - int(0.52 * 512)
    masked = masking.sample(torch.arange(4000), (50,)).float()
    assert masked.mean(dim=0).sub(24 / 50).abs().max() < 0.04  # five deviations
    together = (masked[:, 1:] * masked[:, :-1]).mean()
    assert together.item() == pytest.approx(24 / 50 * 23 / 49, abs=0.01)


def test_shares_that_make_no_sense_are_refused():
    for ratio in (0, 1, -0.5):
        with pytest.raises(ValueError, match=f"mask_ratio must lie between 0 and 1, not {ratio}"):
            RandomMasking(ratio)


# Positions, `<s>`


def test_a_text_that_is_too_long_is_an_error_that_says_what_to_do():
    encoder = make_encoder(max_positions=8)
    assert encoder(torch.zeros(1, 8, dtype=torch.int64)).tokens.shape == (1, 8, 16)
    with pytest.raises(UserError, match=r"sequence of 9 tokens, .* 8 positions: set data\.block_size"):
        encoder(torch.zeros(1, 9, dtype=torch.int64))
    assert make_encoder(max_positions=None, alibi=True)(torch.zeros(1, 99, dtype=torch.int64)).tokens.shape[1] == 99


def test_positions_are_added_to_what_stays_visible():
    positions = LearnedPositions(6, 3)
    close(positions(TokenSequence(torch.zeros(2, 4, 3), (4,))), positions.table[None, :4], rtol=0, atol=0)
    encoder = make_encoder()
    ids = padded_batch((20,)).inputs
    swapped = ids[:, [0, 2, 1, *range(3, 20)]]
    assert (encoder(ids).tokens[0, 5] - encoder(swapped).tokens[0, 5]).abs().max() > 1e-4


def test_s_is_the_cls_token():
    encoder, batch = make_encoder(masked_input="drop"), padded_batch()
    output = encoder(batch.inputs, batch.padding_mask)
    assert torch.equal(output.cls, output.tokens[:, :1])
    pooled = encoder.embed(batch.inputs, padding_mask=batch.padding_mask, pool="cls")
    assert torch.equal(pooled, output.tokens[:, 0])
    mask = RandomMasking(0.5)(batch, (32,), 2, 0)
    assert encoder.encode(encoder.extract(batch.inputs), mask).cls is None  # it may be among the dropped


def test_encoders_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="would not know the order of tokens"):
        make_encoder(max_positions=None)
    with pytest.raises(ValueError, match="are for masked_input replace"):
        make_encoder(masked_input="drop", random_tokens=0.1)


# Teacher


@pytest.mark.parametrize("version", VERSIONS)
def test_the_teacher_borrows_what_stands_before_the_blocks(version):
    method = make_method(version).train()
    averaged = list(method.teacher.encoder.state_dict())
    assert averaged
    assert all(name.startswith("trunk.blocks.") for name in averaged)
    assert method.teacher.encoder.front.input_norm is method.student.front.input_norm
    step(method, padded_batch()).loss.backward()
    norm = method.student.front.input_norm
    assert all(parameter.requires_grad and parameter.grad.any() for parameter in norm.parameters())

    before = {name: value.clone() for name, value in method.teacher.encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
    method.teacher.update(method.student, 0.9)
    student = method.student.state_dict()
    for name, value in method.teacher.encoder.state_dict().items():
        close(value, 0.9 * before[name] + 0.1 * student[name])


# Checkpoints


ASSETS = {"tokenizer.json": '{"größe": "字"}\n'}


def save_run(path: Path, version: str) -> Data2VecModule:
    """A checkpoint as training writes it, of a teacher that differs from the student."""
    module = Pretraining(
        student=make_student(version),
        ema=EMADecay(0.9, 0.99, 4),
        optimizer=torch.optim.AdamW,
        schedule=WarmupCosine(1),
        **parts(version),
    )
    module.method.student.assets.update(ASSETS)
    with torch.no_grad():
        for parameter in module.method.teacher.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return module.eval()


@pytest.mark.parametrize("version", VERSIONS)
def test_student_teacher_and_assets_of_a_run_are_loaded(version, tmp_path):
    module = save_run(tmp_path / "last.ckpt", version)
    batch = padded_batch((20, 20))._replace(padding_mask=None)
    student, teacher = (d2v.load(tmp_path / "last.ckpt", weights=which) for which in ("student", "teacher"))
    assert student.assets == teacher.assets == ASSETS
    close(student(batch.inputs).tokens, module.method.student(batch.inputs).tokens)
    expected = module.method.teacher(batch, module.method.student.extract(batch.inputs)).tokens
    close(teacher(batch.inputs).tokens, expected)
    assert (teacher(batch.inputs).tokens - student(batch.inputs).tokens).abs().max() > 1e-3


def test_assets_of_a_folder_are_loaded(tmp_path):
    method = make_method("2.0")
    config = {"method": {"student": method.student.recipe}}
    write_folder(tmp_path / "model", method.state_dict(), config, "card", assets=ASSETS)
    assert (tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8") == ASSETS["tokenizer.json"]
    assert d2v.load(tmp_path / "model").assets == ASSETS
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"config\.json names .*tokenizer\.json: not readable"):
        d2v.load(tmp_path / "model")
