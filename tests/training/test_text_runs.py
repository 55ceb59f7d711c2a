"""Pretraining on text under Lightning's loop: resuming, the tokenizer in the checkpoint, and other tokenizers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import text_encoder
from tiny_runs import largest_difference, make_module, make_trainer, weights

import d2v
from d2v.errors import UserError
from d2v.modalities.text.data import TextDataModule
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.model.heads import ConvDecoder1d, MLPHead
from d2v.model.masking import RandomMasking, RandomSpanMasking
from d2v.model.targets import TopKTargets
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.module import Data2VecModule


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt", seed=0)


def write_corpus(path: Path, seed: int) -> Path:
    """Documents of a few random words each."""
    rng = np.random.default_rng(seed)
    words = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 6))) for _ in range(50)]
    documents = [" ".join(rng.choice(words, rng.integers(10, 40))) for _ in range(80)]
    path.write_text("\n\n".join(documents))
    return path


def data(root: Path, **changes: Any) -> TextDataModule:
    settings = {"batch_size": 96, "block_size": 24, "vocab_size": 300, "num_workers": 0, **changes}
    return TextDataModule(str(root), **settings)


def module(kind: str, **changes: Any) -> Data2VecModule:
    """With everything that is random in it."""
    torch.manual_seed(0)
    one = kind == "1.0"
    student = text_encoder(
        vocab_size=305,
        width=16,
        depth=2,
        num_heads=2,
        max_positions=24,
        dropout=0.1,
        masked_input="replace" if one else "drop",
        random_tokens=0.1 if one else 0.0,
        unchanged_tokens=0.1 if one else 0.0,
    )
    return make_module(
        student=student,
        masking=RandomSpanMasking(0.34, 2, inside=False) if one else RandomMasking(0.48),
        head=MLPHead if one else lambda width: ConvDecoder1d(width, 8, 2, 3, 1, 0.1, 0.1, False, 2),
        targets=TopKTargets(2),
        cls_loss=None,
        num_masks=1 if one else 2,
        shared_with_teacher=["feature_extractor", "positions", "input_norm"],
        **changes,
    )


def train(place: Path, method: Data2VecModule, root: Path, ckpt_path: Path | None = None, **changes: Any) -> Path:
    """Ten steps; returns the checkpoint after the sixth."""
    saving = RunCheckpoint(dirpath=str(place / "checkpoints"), every_n_train_steps=6, keep=-1)
    trainer = make_trainer(place, max_steps=10, callbacks=[saving], enable_checkpointing=True)
    trainer.fit(method, datamodule=data(root, **changes), ckpt_path=ckpt_path)
    return place / "checkpoints" / "step-6.ckpt"


@pytest.mark.parametrize("kind", ["1.0", "2.0"])
@pytest.mark.parametrize("break_mode", ["none", "complete_doc"])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, corpus: Path, kind: str, break_mode: str
) -> None:
    whole, resumed = module(kind), module(kind)
    checkpoint = train(tmp_path / "whole", whole, corpus, break_mode=break_mode)
    train(tmp_path / "resumed", resumed, corpus, checkpoint, break_mode=break_mode)
    assert largest_difference(weights(whole), weights(resumed)) == 0
    assert largest_difference(weights(whole), weights(module(kind))) > 0


def test_the_tokenizer_goes_with_the_run(tmp_path: Path, corpus: Path) -> None:
    checkpoint = train(tmp_path, module("2.0"), corpus)
    encoder = d2v.load(checkpoint)
    tokenizer = TextTokenizer.from_json(encoder.assets["tokenizer.json"])
    assert tokenizer.fingerprint == TextTokenizer.open(tmp_path).fingerprint
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode("some words"), tokenizer.eos_id]])
    assert encoder.embed(ids).shape == (1, 16)
    torch.testing.assert_close(encoder.embed(ids, pool="cls"), encoder(ids).tokens[:, 0])


def test_ids_never_change_their_meaning_under_a_run(tmp_path: Path, corpus: Path) -> None:
    """A changed corpus gets a tokenizer of its own: neither a resume nor init_from goes on with it."""
    checkpoint = train(tmp_path, module("2.0"), corpus)
    other = write_corpus(tmp_path / "other.txt", seed=1)
    with pytest.raises(UserError, match=r"--resume: tokenizer\.json of the data is not the one"):
        train(tmp_path / "resumed", module("2.0"), other, checkpoint)
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        train(tmp_path / "again", module("2.0", init_from=str(checkpoint)), other)
    train(tmp_path / "further", module("2.0", init_from=str(checkpoint)), other, tokenizer=str(tmp_path))


def test_mask_must_not_be_an_ordinary_token(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = data(corpus)
    text.prepare_data()
    tight = text_encoder(vocab_size=len(text.tokenizer), width=8, depth=1, num_heads=1, masked_input="replace")
    text.adapt_to(tight)  # its last id is <mask>
    tokenizer = text.tokenizer
    tokenizer.mask_id = 7  # as BERT's, whose [MASK] is not the last
    monkeypatch.setattr(TextDataModule, "tokenizer", property(lambda _: tokenizer))
    with pytest.raises(UserError, match=rf"last id {len(tokenizer) - 1}.*vocab_size to {len(tokenizer) + 1}"):
        text.adapt_to(tight)
