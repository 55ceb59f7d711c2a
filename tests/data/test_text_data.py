"""Batches of text: what is in them, where their shards come from, and that neither workers nor a resume change them."""

import json
import logging
import multiprocessing
import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import text_encoder, vision_encoder
from recording import Recorder, SaveAfter, trainer

from d2v.errors import UserError
from d2v.modalities.text.corpus.shard_writer import ShardWriter, dtype_for, write_index
from d2v.modalities.text.corpus.shards import Shards
from d2v.modalities.text.data import TextDataModule
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.model.encoder import Encoder
from d2v.training.callbacks.collapse import CollapseCallback, CollapseLimits
from d2v.training.callbacks.log import LogCallback
from d2v.training.callbacks.throughput import ThroughputCallback
from d2v.types import Batch

EOS = 2


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["the cat sat on the mat, and the dog did not"] * 3, 280)


def random_documents(count: int, seed: int = 0) -> list[list[int]]:
    """Sentences of 1 to 24 tokens, each with its end."""
    rng = np.random.default_rng(seed)
    sentences = [[rng.integers(4, 260, rng.integers(0, 24)) for _ in range(rng.integers(1, 9))] for _ in range(count)]
    return [list(chain.from_iterable([*map(int, words), EOS] for words in document)) for document in sentences]


def write_shards(folder: Path, tokenizer: TextTokenizer, **splits: list[list[int]]) -> Path:
    """Each split in two shards, as `d2v prepare text` would leave it."""
    folder.mkdir(parents=True)
    entries = {}
    for split, documents in splits.items():
        halves = documents[: len(documents) // 2], documents[len(documents) // 2 :]
        entries[split] = []
        for number, half in enumerate(half for half in halves if half):
            writer = ShardWriter(folder, split, number, dtype_for(tokenizer))
            for document in half:
                writer.write(np.array(document, dtype=dtype_for(tokenizer)).tobytes())
                writer.end_document()
            entries[split].append(writer.close())
    write_index(folder, tokenizer, entries, {})
    return folder


@pytest.fixture
def root(tmp_path: Path, tokenizer: TextTokenizer) -> Path:
    return write_shards(tmp_path / "shards", tokenizer, train=random_documents(40), val=random_documents(6, seed=1))


def make(root: Path, **values: Any) -> TextDataModule:
    settings: dict[str, Any] = {"batch_size": 96, "num_workers": 0, "block_size": 32, "max_skipped_fraction": 0.0}
    return TextDataModule(str(root), **{**settings, **values})


def batches(data: TextDataModule, epochs: int = 1) -> list[Batch]:
    data.setup("fit")
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found += list(loader)
    return found


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        (a is None and b is None) or torch.equal(a, b)
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def rows(found: list[Batch]) -> list[tuple[tuple[int, int], list[int]]]:
    """Epoch, sample and ids without padding of each sequence."""
    return [
        ((epoch, sample), ids[keep].tolist())
        for batch in found
        for epoch, sample, ids, keep in zip(
            batch.epochs.tolist(),
            batch.sample_ids.tolist(),
            batch.inputs,
            torch.ones_like(batch.inputs, dtype=torch.bool) if batch.padding_mask is None else ~batch.padding_mask,
            strict=True,
        )
    ]


def test_blocks_of_one_length_hold_the_whole_stream(root: Path) -> None:
    data = make(root)
    stream = [token for document in random_documents(40) for token in document]
    assert len(stream) % 31 > 7, "so that the last block is shorter and not left out"
    seen = batches(data, epochs=2)
    assert all(batch.inputs.dtype == torch.int64 and len(batch.inputs) == 3 for batch in seen)
    blocks = {sample: ids for (_, sample), ids in rows(seen)}
    assert sorted(blocks) == list(range(-(-len(stream) // 31)))
    assert all(ids[0] == 0 for ids in blocks.values())
    assert [token for sample in sorted(blocks) for token in blocks[sample][1:]] == stream
    keys = [key for key, _ in rows(seen)]
    assert len(set(keys)) == len(keys)
    assert sum(batch.padding_mask is not None for batch in seen) <= 2, "the last block, once an epoch"


def test_blocks_of_whole_sentences_fill_batches_by_length(root: Path) -> None:
    data = make(root, break_mode="complete_doc", batch_size=100)
    seen = batches(data)
    padded = 0
    for batch in seen:
        assert batch.inputs.numel() <= 100
        if batch.padding_mask is not None:
            assert (batch.inputs[batch.padding_mask] == data.tokenizer.pad_id).all()
            padded += int(batch.padding_mask.sum())
        assert int(data.count_units(batch)) == sum(len(ids) for _, ids in rows([batch]))
    assert 0 < padded < 0.2 * sum(batch.inputs.numel() for batch in seen)
    documents = ["," + ",".join(map(str, document)) + "," for document in random_documents(40)]
    for (_, sample), ids in rows(seen):
        assert ids[0] == 0
        assert 8 <= len(ids) <= 32
        text = "," + ",".join(map(str, ids[1:])) + ","
        assert any(text in document for document in documents), f"block {sample} crosses documents"
        assert ids[-1] == EOS, "no sentence here is longer than a block"


def test_workers_change_nothing_and_the_seed_does(root: Path) -> None:
    for mode in ("none", "complete_doc"):
        one = batches(make(root, break_mode=mode), 2)
        assert same(one, batches(make(root, break_mode=mode, num_workers=2), 2))
        assert not same(one, batches(make(root, break_mode=mode, seed=1), 2))


@pytest.mark.parametrize("mode", ["none", "complete_doc"])
def test_ranks_share_the_blocks(root: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextDataModule, "world_size", 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(TextDataModule, "rank", rank)
        data = make(root, break_mode=mode, batch_size=32)
        shares.append([key for key, _ in rows(batches(data))])
        assert [i for batch in data.val_dataloader() for i in batch.sample_ids.tolist()] == list(
            range(rank, len(data.eval_dataset("val")), 2)
        )
    together = list(chain.from_iterable(shares))
    assert len(set(together)) == len(together)
    assert len(together) > 0.8 * len(make(root, break_mode=mode).train_dataset())


def test_validation_is_in_order(root: Path) -> None:
    for mode in ("none", "complete_doc"):
        data = make(root, break_mode=mode)
        expected = data.eval_dataset("val")
        assert expected is not None
        loader = data.val_dataloader()
        assert [key for key, _ in rows(list(loader))] == [(0, i) for i in range(len(expected))]
        assert all(batch.inputs.numel() <= 96 for batch in loader)
    assert make(root).class_names == ()


def test_a_dataset_is_cheap_to_send(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(4, 260, 999).tolist(), EOS] for _ in range(500)]
    data = make(write_shards(tmp_path / "large", tokenizer, train=documents), block_size=512, batch_size=512)
    dataset = data.train_dataset()
    assert dataset[(0, 3)].inputs.shape == (512,)  # the shards are mapped now
    assert len(pickle.dumps(dataset)) < 20_000
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[(0, 3)].inputs, dataset[(0, 3)].inputs)


def test_an_id_that_the_tokenizer_has_not_is_named(
    tmp_path: Path, tokenizer: TextTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    documents = random_documents(30)
    documents[3][0] = 60_000
    folder = write_shards(tmp_path / "odd", tokenizer, train=documents)
    assert any(60_000 in row for row in documents)
    with caplog.at_level(logging.WARNING):
        seen = batches(make(folder, break_mode="complete_doc", max_skipped_fraction=0.5))
    assert "it holds the id 60000, and the tokenizer has" in caplog.text
    assert all(batch.inputs.numel() <= 96 and batch.inputs.max() < 300 for batch in seen)


# Shards that are damaged, or that do not fit.


def test_damage_is_found_before_training(root: Path) -> None:
    make(root).prepare_data()
    file = root / "train-00001.bin"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001\.bin was changed since it was written"):
        make(root).prepare_data()
    file.write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"train-00001\.bin is damaged"):
        make(root).setup("fit")
    (root / "index.json").unlink()
    with pytest.raises(UserError, match="is unfinished"):
        make(root).setup("fit")


def test_checksums_are_compared_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root).prepare_data()
    monkeypatch.setattr(Shards, "verify", None)
    make(root).prepare_data()


def test_the_tokenizer_of_the_shards_is_the_one_asked_for(root: Path, tmp_path: Path) -> None:
    make(root, tokenizer=str(root)).setup("fit")
    TextTokenizer.train(["something else altogether, altogether"] * 2, 270).save(tmp_path / "other.json")
    with pytest.raises(UserError, match=r"data\.tokenizer .*other\.json is not the one that made the shards"):
        make(root, tokenizer=str(tmp_path / "other.json")).setup("fit")
    with pytest.raises(UserError, match=r"data\.shards is .*holds shards already"):
        make(root, shards=str(tmp_path / "elsewhere")).setup("fit")


def test_data_and_encoder_meet(root: Path, tokenizer: TextTokenizer) -> None:
    def encoder(**values: Any) -> Encoder:
        small = {"vocab_size": len(tokenizer), "width": 8, "depth": 1, "num_heads": 1, "max_positions": 32}
        return text_encoder(**{**small, **values})

    data = make(root)
    fitting = encoder()
    data.adapt_to(fitting)
    assert json.loads(fitting.assets["tokenizer.json"]) == json.loads(tokenizer.to_json())
    data.adapt_to(fitting)  # that of the shards already
    data.adapt_to(encoder(max_positions=None, alibi=True))
    with pytest.raises(
        UserError, match=rf"has {len(tokenizer)} ids, and the encoder embeds 200\..*--model\.student\.front"
    ):
        data.adapt_to(encoder(vocab_size=200))
    with pytest.raises(UserError, match=r"data\.block_size is 32, and the encoder has 31 positions"):
        data.adapt_to(encoder(max_positions=31))
    with pytest.raises(UserError, match="VisionFrontEnd does not read it"):
        data.adapt_to(vision_encoder(width=8, depth=1, num_heads=1))
    fitting.assets["tokenizer.json"] = TextTokenizer.train(["another"] * 2, 256).to_json()
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        data.adapt_to(fitting)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 100}, r"batch_size 100 \(tokens\) is not a multiple of data\.block_size 32\. Set .* 96 or 128"),
        ({"batch_size": 31, "break_mode": "complete_doc"}, r"data\.batch_size 31 \(tokens\) is below data\.block_size"),
        ({"batch_size": 16}, r"Set data\.batch_size to 32 or more"),
        ({"block_size": 7}, r"data\.block_size is 7: it must be at least 8"),
        ({"break_mode": "eos"}, r"data\.break_mode is eos"),
        ({"val_fraction": 0.6}, r"data\.val_fraction is 0\.6"),
    ],
)
def test_senseless_values_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, **values)


def test_the_batch_of_a_recipe_is_in_tokens(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextDataModule, "world_size", 2)
    data = make(root, batch_size=64, global_batch_size=512)
    data.setup("fit")
    assert data.accumulation == 4
    with pytest.raises(UserError, match=r"data\.global_batch_size 500 cannot be met"):
        make(root, batch_size=64, global_batch_size=500).setup("fit")


def test_too_little_text(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    folder = write_shards(tmp_path / "tiny", tokenizer, train=[[5, 6, EOS], [7, EOS]], val=[[5, EOS]])
    with pytest.raises(UserError, match="no block of 8 tokens or more can be made"):
        make(folder).setup("fit")
    other = write_shards(tmp_path / "short", tokenizer, train=[[5] * 9], val=[[5, EOS]])
    data = make(other)
    assert data.eval_dataset("val") is None
    (batch,) = batches(make(other, batch_size=32))
    assert batch.inputs.tolist() == [[0] + [5] * 9]


# Raw text.


def write_text(folder: Path, documents: int = 60) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(
        f"The cat sat on mat {i}.\nIt was the dog's, and the dog did not like it." for i in range(documents)
    )
    (folder / "a.txt").write_text(text)
    return folder


def test_raw_text_is_prepared_once_and_anew_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = write_text(tmp_path / "text")

    def shards(**values: Any) -> tuple[Path, int]:
        data = make(text, **{"vocab_size": 300, "val_fraction": 0.1, **values})
        data.prepare_data()
        data.setup("fit")
        folder = data.splits["train"].shards.folder
        return folder, (folder / "index.json").stat().st_mtime_ns

    with caplog.at_level(logging.INFO):
        first = shards()
    assert f"{text} is raw text; its token shards are in {first[0]}" in caplog.text
    assert first[0].parent == tmp_path / "cache" / "d2v" / "text-shards"
    assert shards() == first
    assert shards(block_size=16) == first
    assert shards(vocab_size=310)[0] != first[0]
    assert shards(val_fraction=0.2)[0] != first[0]
    assert shards(tokenizer=str(first[0]))[0] != first[0]
    write_text(tmp_path / "text", documents=70)
    assert shards()[0] != first[0]


def test_what_is_read_back_is_the_text(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text")
    data = make(text, vocab_size=300, val_fraction=0.1, shards=str(tmp_path / "mine"))
    assert data.tokenizer is not None
    assert (tmp_path / "mine" / "index.json").is_file()
    dataset = data.eval_dataset("val")
    assert dataset is not None
    ids = [int(i) for n in range(len(dataset)) for i in dataset[(0, n)].inputs[1:]]
    documents = [document.split("\n") for document in (text / "a.txt").read_text().split("\n\n")]
    found = data.tokenizer.decode(ids).split("</s></s>")[:-1]  # the last block may be cut or left out
    assert len(found) > 2
    assert all(document.split("</s>") in documents for document in found)


def test_wrong_roots(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("")
    for name, message in (
        ("missing", "does not exist"),
        ("*.none", "matches nothing"),
        ("empty", "holds no text"),
        ("nothing.txt", "there is no text"),
    ):
        with pytest.raises(UserError, match=rf"data\.root: .*{message}"):
            make(tmp_path / name).setup("fit")


def _prepare(text: Path, ready: Any, answers: Any) -> None:
    data = make(text, vocab_size=300)
    ready.wait(60)
    data.setup("fit")
    index = data.splits["train"].shards.folder / "index.json"
    answers.put((str(index), index.stat().st_ino, index.stat().st_mtime_ns))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_that_start_at_once_prepare_once(tmp_path: Path) -> None:
    text = write_text(tmp_path / "text", documents=300)
    context = multiprocessing.get_context("fork")  # importing torch twice would take most of the time
    ready, answers = context.Barrier(2), context.Queue()
    started = [context.Process(target=_prepare, args=(text, ready, answers)) for _ in range(2)]
    for process in started:
        process.start()
    first, second = (answers.get(timeout=120) for _ in started)
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert first == second, "a second index would be another file"


# Runs.


@pytest.mark.parametrize("mode", ["none", "complete_doc"])
@pytest.mark.parametrize("count", [7, 30, 61])  # within an accumulation, between two steps, in a later epoch
def test_a_resumed_run_sees_what_the_uninterrupted_one_sees(
    tmp_path: Path, tokenizer: TextTokenizer, mode: str, count: int
) -> None:
    root = write_shards(tmp_path / "shards", tokenizer, train=random_documents(20), val=random_documents(3, seed=1))
    path = tmp_path / "run.ckpt"
    values = {"break_mode": mode, "batch_size": 64, "global_batch_size": 128}
    whole, resumed = Recorder(), Recorder()
    trainer(max_steps=40, callbacks=[SaveAfter(path, count)]).fit(whole, make(root, num_workers=1, **values))
    trainer(max_steps=40).fit(resumed, make(root, **values), ckpt_path=path, weights_only=True)
    assert len(whole.seen) == 80
    assert {int(epoch) for batch in whole.seen for epoch in batch.epochs} >= {0, 1}
    assert same(whole.seen[:count] + resumed.seen, whole.seen)


@pytest.mark.parametrize("mode", ["none", "complete_doc"])
def test_padding_and_speed_are_logged(root: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    callbacks = [ThroughputCallback(), LogCallback(), CollapseCallback(CollapseLimits())]
    fit = trainer(max_steps=4, log_every_n_steps=4, callbacks=callbacks)
    module = Recorder()
    with caplog.at_level(logging.INFO):
        fit.fit(module, make(root, break_mode=mode, global_batch_size=192))
    assert fit.callback_metrics["train/loss"].isfinite()
    assert "192 tokens an optimizer step = 96 tokens x 1 devices x 2 accumulated" in caplog.text
    assert "data: train: " in caplog.text
    padding = sum(int(batch.padding_mask.sum()) for batch in module.seen if batch.padding_mask is not None)
    total = sum(batch.inputs.numel() for batch in module.seen)
    assert float(fit.callback_metrics["throughput/padding_fraction"]) == pytest.approx(padding / total)
    assert fit.callback_metrics["throughput/tokens_per_second"] > 0


def test_prediction_goes_through_lightning(root: Path, recwarn: pytest.WarningsRecorder) -> None:
    ids = trainer().predict(Recorder(), make(root))
    assert ids is not None
    assert torch.cat(ids).tolist() == list(range(len(make(root).eval_dataset("val"))))
    assert not [w for w in recwarn if "batch sampler" in str(w.message)]
