"""Recognition under Lightning's own loop: it learns, freezes, resumes exactly, and padding does not matter."""

import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from encoders import vision_encoder
from torchmetrics.functional.text import char_error_rate, word_error_rate
from toy import (
    LETTER,
    RATE,
    MelodyModule,
    Seen,
    changed,
    make_encoder,
    make_module,
    make_trainer,
    melody,
    text_of,
    weights,
)

import d2v
from d2v.checkpoints.folder import write_folder
from d2v.checkpoints.head_files import StoredHead, to_files
from d2v.errors import UserError
from d2v.finetuning.captions import text_of as text_of_words
from d2v.finetuning.ctc import CTCModule, ctc_loss
from d2v.finetuning.decoders import BeamSearchDecoder, GreedyDecoder
from d2v.nn.task_heads import CTCHead
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.types import Batch

MASKS = {"time_prob": 0.5, "time_length": 3, "channel_prob": 0.3, "channel_length": 8}


def fit(folder: Path, data: dict[str, Any] | None = None, module: dict[str, Any] | None = None, **trainer: Any):
    made = make_module(**(module or {}))
    path = trainer.pop("ckpt_path", None)
    runner = make_trainer(folder, **trainer)
    runner.fit(made, datamodule=MelodyModule(**(data or {})), ckpt_path=None if path is None else str(path))
    return made, runner


def ready(**changes: Any) -> CTCModule:
    """A module with a head, without a run."""
    module = make_module(**changes)
    module.set_names(("<blank>", "|", "a", "b", "c"))
    return module


# Learning


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[CTCModule, Path]:
    folder = tmp_path_factory.mktemp("learned")
    checkpoint = RunCheckpoint(dirpath=str(folder / "checkpoints"))
    module, _ = fit(
        folder, {"num_samples": 256}, {"lr": 5e-3}, max_steps=100, callbacks=[checkpoint], enable_checkpointing=True
    )
    return module, folder


def test_tones_are_learned_and_transcribed(learned, tmp_path):
    module, _ = learned
    trainer = make_trainer(tmp_path, limit_test_batches=None, limit_val_batches=None)
    (metrics,) = trainer.validate(module, datamodule=MelodyModule(), verbose=False)
    assert metrics["val/wer"] < 0.1
    assert metrics["val/cer"] < 0.05
    assert metrics["val/loss"] < 1
    (tested,) = trainer.test(module, datamodule=MelodyModule(), verbose=False)
    assert tested["test/wer"] == pytest.approx(metrics["val/wer"])
    rows = [batch["rows"] for batch in trainer.predict(module, datamodule=MelodyModule(labels="none"))]
    texts = [value[0] for batch in rows for value in batch.values]
    expected = [text_of(10_000 + i).replace("|", " ") for i in range(16)]
    assert sum(a == b for a, b in zip(texts, expected, strict=True)) > 12
    assert [int(i) for batch in rows for i in batch.sample_ids] == list(range(16))


@pytest.mark.parametrize("decoder", [GreedyDecoder(), BeamSearchDecoder()], ids=["greedy", "beam"])
def test_words_have_the_times_at_which_they_sound(learned, monkeypatch, decoder):
    module, _ = learned
    module.eval()
    text = "|".join(text_of(30_000 + i) for i in range(20))
    wave = melody(text)[None]
    monkeypatch.setattr(module, "times", "json")
    monkeypatch.setattr(module, "decoder", decoder)
    monkeypatch.setattr(module, "chunk_seconds", 2.0)  # times go on over the chunks
    monkeypatch.setattr(module, "overlap_seconds", 1.0)
    with torch.no_grad():
        output = module.predict_step(Batch(wave, torch.arange(1), torch.zeros(1, dtype=torch.long)), 0)
    ((said,),), (words,) = output["rows"].values, output["words"]
    assert text_of_words(words) == said
    right = 0
    for match in re.finditer("[abc]+", text):
        start, end = match.start() * LETTER / RATE, match.end() * LETTER / RATE
        right += any(word.text == match[0] and start - 0.03 <= word.start <= word.end <= end + 0.03 for word in words)
    assert right > 0.8 * len(text.split("|"))


def test_beam_search_is_not_worse_than_greedy(learned, tmp_path):
    module, _ = learned
    trainer = make_trainer(tmp_path, limit_test_batches=None)
    (greedy,) = trainer.test(module, datamodule=MelodyModule(noise=1.0), verbose=False)
    old, module.decoder = module.decoder, BeamSearchDecoder()
    (beam,) = trainer.test(module, datamodule=MelodyModule(noise=1.0), verbose=False)
    module.decoder = old
    assert beam["test/cer"] <= greedy["test/cer"] + 0.02


def test_texts_are_scored_against_the_transcripts_as_they_are_given(learned, tmp_path):
    """In the case of the head; letters that the data's alphabet lacks stay in the references."""
    module, _ = learned
    trainer = make_trainer(tmp_path, limit_test_batches=None, limit_val_batches=None)
    (expected,) = trainer.test(module, datamodule=MelodyModule(), verbose=False)

    class Loud(MelodyModule):
        def transcript(self, sample_id):
            return "  ".join(super().transcript(sample_id).upper().split())

    for data in (Loud(symbols="|ABC"), MelodyModule(symbols="|ABC"), MelodyModule(symbols="|ab")):
        (other,) = trainer.test(module, datamodule=data, verbose=False)
        assert other == pytest.approx(expected, rel=1e-4)
        (validated,) = trainer.validate(module, datamodule=data, verbose=False)
        assert validated["val/wer"] == pytest.approx(expected["test/wer"])

    class Numbers(MelodyModule):
        def transcript(self, sample_id):
            return super().transcript(sample_id) + "2"  # which the head cannot write

    (other,) = trainer.test(module, datamodule=Numbers(), verbose=False)
    assert other["test/wer"] >= 0.5


def test_a_substitute_is_not_scored(learned, tmp_path, monkeypatch):
    module, _ = learned
    pairs = {}
    score = module._score

    def spy(batch, *args):
        found = score(batch, *args)
        pairs.update(zip(batch.sample_ids.tolist(), found, strict=True))
        return found

    class Broken(MelodyModule):
        """No transcript of every other clip, which could not be read."""

        def transcript(self, sample_id):
            if sample_id % 2:
                return None
            return super().transcript(sample_id) + " longer"

    monkeypatch.setattr(module, "_score", spy)
    (found,) = make_trainer(tmp_path, limit_test_batches=None).test(module, datamodule=Broken(), verbose=False)
    kept = [pair for number, pair in pairs.items() if number % 2 == 0]
    assert 0 < len(kept) < len(pairs)
    expected = word_error_rate([text for _, text in kept], [reference for reference, _ in kept])
    assert found["test/wer"] == pytest.approx(float(expected), rel=1e-4)


def test_silence_is_an_empty_text(learned):
    module, _ = learned
    wave = melody(text_of(5))
    silence = torch.zeros_like(wave)
    silence[len(wave) // 2 :] = 0.0
    batch = Batch(torch.stack([wave, silence]), torch.arange(2), torch.zeros(2, dtype=torch.long), None, None)
    with torch.no_grad():
        rows = module.eval().predict_step(batch, 0)["rows"]
    assert rows.values[0][0]
    assert rows.values[1] == ("",)
    assert rows.notes == ["", "silent"]


def test_both_rates_are_kept_apart():
    """After single-letter words their counts are equal, by which torchmetrics would take them for one metric."""
    for metrics in (ready().val_metrics, ready().test_metrics):
        metrics.update(["a"], ["b"])
        metrics.update(["abc abc"], ["abc abd"])
        found = {name.partition("/")[2]: float(value) for name, value in metrics.compute().items()}
        assert found == pytest.approx({"wer": 2 / 3, "cer": 2 / 8})


def test_clips_too_short_for_their_transcripts_are_counted_and_named_once(learned, tmp_path):
    module, _ = learned

    class Wordy(MelodyModule):
        @staticmethod
        def collate(samples):
            batch = MelodyModule.collate(samples)
            letters = torch.full((len(samples), 60), 2)  # 60 frames and a blank between each
            letters[0, 1:] = -100
            return batch._replace(labels=letters)

    fresh = make_module()
    fresh.prepare_for({"d2v": {"alphabet": list(module.names)}})
    fresh._trained = True
    trainer = make_trainer(tmp_path, limit_val_batches=None)
    with pytest.warns(UserWarning, match="14 of the first 16 clips are too short for their transcripts"):
        trainer.validate(fresh, datamodule=Wordy(), verbose=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*too short")
        trainer.validate(fresh, datamodule=Wordy(), verbose=False)
    with pytest.warns(UserWarning, match="7 of the first 8 clips are too short"):
        make_trainer(tmp_path, max_steps=1, log_every_n_steps=1).fit(make_module(), datamodule=Wordy())


def test_a_long_clip_is_transcribed_in_chunks(learned, tmp_path, monkeypatch):
    module, _ = learned
    module.eval()
    text = "|".join(text_of(20_000 + i) for i in range(12))
    wave = melody(text)[None]
    short = melody(text_of(5))
    padded = torch.cat([wave, F.pad(short, (0, wave.shape[1] - len(short)))[None]])
    padding = torch.arange(wave.shape[1]) >= torch.tensor([wave.shape[1], len(short)])[:, None]
    batch = Batch(padded, torch.arange(2), torch.zeros(2, dtype=torch.long), None, padding)
    longest = []
    extract = module.student.extract

    def spy(x, padding_mask=None):
        longest.append(x.shape)
        return extract(x, padding_mask)

    monkeypatch.setattr(module.student, "extract", spy)
    monkeypatch.setattr(module, "chunk_seconds", 2.0)
    monkeypatch.setattr(module, "overlap_seconds", 1.0)
    with torch.no_grad():
        texts = [value[0] for value in module.predict_step(batch, 0)["rows"].values]
    assert max(shape[1] for shape in longest) <= 2 * 16_000
    assert {shape[0] for shape in longest} == {1}
    monkeypatch.setattr(module, "chunk_seconds", 1e9)
    with torch.no_grad():
        whole = [value[0] for value in module.predict_step(batch, 0)["rows"].values]
    assert texts[1] == whole[1]
    monkeypatch.setattr(module, "chunk_seconds", 0.5)
    monkeypatch.setattr(module, "overlap_seconds", 0.2)
    longest.clear()
    make_trainer(tmp_path, limit_val_batches=None).validate(module, datamodule=MelodyModule(), verbose=False)
    assert max(shape[1] for shape in longest) <= 8_000
    assert char_error_rate([texts[0]], [text.replace("|", " ")]) < 0.1
    assert char_error_rate([texts[0]], [whole[0]]) < 0.1


def test_the_loss_of_a_long_clip_is_logged_on_the_device_of_the_module(monkeypatch):
    """Its frames are gathered on the CPU, and a loss there could not be averaged over processes with GPUs."""
    module = ready(chunk_seconds=0.3, overlap_seconds=0.1)
    module.eval()
    module.names_in_data(data := MelodyModule())
    trainer = make_trainer(".")
    trainer.datamodule = data
    module._trainer = trainer
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    monkeypatch.setattr(CTCModule, "device", torch.device("meta"))
    module.test_step(data.collate([data.eval_dataset("val")[(0, 0)]]), 0)
    assert logged["test/loss"].device.type == "meta"


# Loss, padding


def test_the_loss_is_the_mean_over_clips_of_the_negative_log_likelihood():
    log_probs = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    letters = torch.tensor([[1, 2], [2, -100]])
    # Of one letter over n frames: all ways to place one run of it.
    p = log_probs[1, :4].exp()
    ways = [math.prod(float(p[t, 2 if i <= t < j else 0]) for t in range(4)) for i in range(4) for j in range(i + 1, 5)]
    alone = ctc_loss(log_probs[:1], torch.tensor([6]), letters[:1])
    both = ctc_loss(log_probs, torch.tensor([6, 4]), letters)
    assert float(both) == pytest.approx((float(alone) - math.log(sum(ways))) / 2, rel=1e-5)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_letters_are_scored_in_fp32_under_autocast(weights):
    """Rounded to bf16, two of them are often the same, and another one is the best."""
    head = CTCHead(64, 32).to(weights)
    torch.nn.init.normal_(head.proj.bias, 4.0, 0.02)
    frames = torch.randn(1, 2000, 64).to(weights) * 0.1
    exact = F.linear(frames.float(), head.proj.weight.float(), head.proj.bias.float()).log_softmax(dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(frames)
    assert scores.dtype == torch.float32
    assert torch.equal(scores.argmax(dim=-1), exact.argmax(dim=-1))
    assert torch.allclose(scores, exact, atol=1e-5)


def test_a_clip_too_short_for_its_letters_has_neither_loss_nor_gradient():
    log_probs = torch.randn(2, 4, 3).log_softmax(dim=-1).requires_grad_()
    loss = ctc_loss(log_probs, torch.tensor([4, 2]), torch.tensor([[1, 2, -100], [1, 1, 1]]))
    loss.backward()
    assert loss.isfinite()
    assert log_probs.grad[1].abs().max() == 0
    assert log_probs.grad[0].abs().max() > 0


@pytest.mark.parametrize("masks", [None, MASKS])
@pytest.mark.parametrize("masked_input", ["replace", "drop"])
def test_padding_does_not_change_the_loss_of_a_clip(tmp_path, masks, masked_input):
    """With masks too: they depend on the clip's own length."""
    module = ready(masks=masks, encoder_args={"masked_input": masked_input})
    trainer = make_trainer(tmp_path)
    trainer.strategy.connect(module)
    module.trainer = trainer
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    data = MelodyModule()
    samples = [data.train_dataset()[(0, i)] for i in range(4)]
    together = data.collate(samples)
    assert together.padding_mask is not None
    alone = [module.loss(data.collate([sample])).item() for sample in samples]
    assert module.loss(together).item() == pytest.approx(sum(alone) / 4, abs=1e-4)


# Freezing


def test_frozen_parts_stay_as_they_are_and_in_eval_mode(tmp_path):
    module = make_module(freeze=["front.feature_extractor.layers"], encoder_args={"dropout": 0.1})
    before = weights(module)
    modes = []

    class Watch(Seen):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            modes.append([layer.training for layer in pl_module.student.front.feature_extractor.layers])
            modes.append([not pl_module.student.trunk.training])

    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[Watch()], limit_val_batches=1, val_check_interval=2)
    trainer.fit(module, datamodule=MelodyModule())
    moved = changed(module, before)
    assert not any("feature_extractor.layers" in name for name in moved)
    still = {name for name in before if name not in moved and "feature_extractor.layers" not in name}
    assert not still, still
    assert {flag for mode in modes for flag in mode} == {False}


def test_the_encoder_waits_for_the_head(tmp_path):
    """Its parameters have no moments of the optimizer, nor weight decay, while it waits; then it moves."""
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5)  # noqa: E731
    module, _ = fit(tmp_path, module={"freeze_encoder_steps": 3, "optimizer": optimizer}, max_steps=3)
    before = weights(make_module())
    assert not changed(module, before)
    module, trainer = fit(tmp_path, module={"freeze_encoder_steps": 3, "optimizer": optimizer}, max_steps=4)
    assert any("trunk" in name for name in changed(module, before))
    steps = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {1.0, 4.0}


@pytest.mark.parametrize(("kind", "labels"), [("ctc", "transcript"), ("classifier", "class")])
def test_a_skipped_update_moves_nothing_and_the_encoder_waits_no_shorter(tmp_path, kind, labels, caplog):
    """Steps of a schedule are updates; and of a batch the clip that is no clip is named."""

    class Damage(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 1:
                self.before, self.clip = weights(pl_module), int(batch.sample_ids[2])
                batch.inputs[2] = torch.inf

        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 2:
                assert not changed(pl_module, self.before)

    for steps in (4, 5):
        damage = Damage()
        module, _ = fit(
            tmp_path, {"labels": labels}, {"kind": kind, "freeze_encoder_steps": 3}, max_steps=steps, callbacks=[damage]
        )
        assert module.updates == steps - 1
        assert any("trunk" in name for name in changed(module, weights(make_module()))) == (steps == 5)
        said = [text for text in caplog.messages if "is skipped" in text]
        assert said[-1].endswith(f"this update is skipped (1 so far): {damage.clip}")


def test_a_whole_encoder_can_be_frozen(tmp_path):
    module = make_module(freeze=[""], encoder_args={"dropout": 0.5})
    before = weights(module)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, datamodule=MelodyModule())
    assert all("student" not in name for name in changed(module, before))
    assert not module.student.trunk.training


# Checkpoints


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path):
    """With dropout, LayerDrop, masks, accumulation, and the end of the head's own time after the resume."""
    noisy = {
        "encoder_args": {"dropout": 0.1, "attention_dropout": 0.1, "layer_drop": 0.3, "masked_input": "replace"},
        "masks": MASKS,
        "final_dropout": 0.1,
        "freeze": ["front.feature_extractor.layers"],
        "freeze_encoder_steps": 5,
    }
    data = {"num_samples": 14, "batch_size": 2, "global_batch_size": 4}
    seen = [Seen(), Seen()]
    checkpoint = RunCheckpoint(every_n_train_steps=4, keep=-1, dirpath=str(tmp_path / "checkpoints"))
    straight, first = fit(
        tmp_path, data, noisy, max_steps=8, callbacks=[checkpoint, seen[0]], enable_checkpointing=True
    )
    torch.rand(7)
    file = tmp_path / "checkpoints" / "step-4.ckpt"
    resumed, second = fit(tmp_path, data, noisy, max_steps=8, callbacks=[seen[1]], ckpt_path=file)
    assert seen[1].samples == seen[0].samples[8:]
    assert seen[1].losses == seen[0].losses[8:]
    assert not changed(straight, weights(resumed))
    states = [trainer.optimizers[0].state_dict()["state"] for trainer in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][n][key]) for n, state in states[0].items() for key, value in state.items())
    assert len(set(seen[0].losses)) == 16


def test_a_checkpoint_holds_alphabet_and_recipe_as_plain_values_and_gives_the_encoder(learned):
    module, folder = learned
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["d2v"]["alphabet"] == ["<blank>", "|", "a", "b", "c"]
    assert (
        content["d2v"]["encoders"][""]["recipe"]["front"]["class_path"]
        == "d2v.modalities.speech.front_end.SpeechFrontEnd"
    )
    encoder = d2v.load(folder)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, module.student.state_dict()[name])


def test_another_run_can_start_from_a_fine_tuned_encoder(learned, tmp_path):
    module, folder = learned
    other = make_module(checkpoint=str(folder))
    assert torch.equal(
        other.student.state_dict()["trunk.blocks.0.mlp.0.weight"],
        module.student.state_dict()["trunk.blocks.0.mlp.0.weight"],
    )
    assert other.student.trunk.training


def test_other_arguments_of_the_encoder(learned):
    _, folder = learned
    module = make_module(checkpoint=str(folder), encoder_changes={"layer_drop": 0.25, "dropout": 0.5})
    assert module.student.trunk.layer_drop == 0.25
    assert module.student.recipe["trunk"]["dropout"] == 0.5
    with pytest.raises(UserError, match=r"model\.checkpoint, with model\.encoder_changes \{'layer_dorp': 0\.25\}: "):
        make_module(checkpoint=str(folder), encoder_changes={"layer_dorp": 0.25})


def test_test_takes_the_alphabet_of_the_checkpoint(learned, tmp_path):
    """Data that number their letters otherwise, or have others, are still scored in letters."""
    module, folder = learned
    file = str(folder / "checkpoints" / "last.ckpt")
    trainer = make_trainer(tmp_path, limit_test_batches=None)
    (expected,) = trainer.test(module, datamodule=MelodyModule(), verbose=False)
    (other,) = trainer.test(make_module(), datamodule=MelodyModule(symbols="cba|z"), ckpt_path=file, verbose=False)
    assert other["test/wer"] == expected["test/wer"]
    assert other["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-4)
    with pytest.raises(UserError, match=r"data\.alphabet: .*z.*set data\.alphabet to a file"):
        fit(tmp_path, {"symbols": "cba|z"}, ckpt_path=file, max_steps=100)
    prepared = make_module()
    prepared.prepare_for(torch.load(file, weights_only=True))
    with pytest.raises(UserError, match=r"data\.alphabet: .*the checkpoint writes 5 \(<blank> \| a b c\)"):
        make_trainer(tmp_path).fit(prepared, datamodule=MelodyModule(symbols="cba|z"), ckpt_path=file)


def test_an_imported_recogniser_brings_its_head_and_alphabet(learned, tmp_path):
    """A folder as `d2v import` writes it: transcribes and is tested at once; trained on with the same letters only."""
    module, _ = learned
    weight = module.head.proj.weight.detach().clone()
    files, entries = to_files(StoredHead(module.head, "ctc", "none", module.names))
    write_folder(
        tmp_path / "imported",
        {f"student.{name}": value for name, value in module.student.state_dict().items()},
        {"method": {"student": module.student.recipe}, **entries},
        "",
        files,
    )
    trainer = make_trainer(tmp_path, limit_test_batches=None)
    (expected,) = trainer.test(module, datamodule=MelodyModule(), verbose=False)
    imported = make_module(checkpoint=str(tmp_path / "imported"))
    (other,) = trainer.test(imported, datamodule=MelodyModule(symbols="cba|z"), verbose=False)
    assert other["test/wer"] == expected["test/wer"]
    assert imported.names == module.names

    still = lambda groups: torch.optim.SGD(groups, lr=0.0)  # noqa: E731
    for symbols, same in (("|abc", True), ("|abcz", False)):
        started = make_module(checkpoint=str(tmp_path / "imported"), optimizer=still)
        make_trainer(tmp_path, max_steps=1).fit(started, datamodule=MelodyModule(symbols=symbols))
        assert started.names == ("<blank>", *symbols)
        assert torch.equal(started.head.proj.weight[:5], weight) == same


# What a user can get wrong


def test_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match=r"neither of checkpoint and encoder given"):
        make_module(encoder=None)
    with pytest.raises(UserError, match=r"both of checkpoint and encoder given"):
        make_module(checkpoint="x", encoder=make_encoder())
    with pytest.raises(UserError, match=r"model\.checkpoint: nowhere: no such file"):
        make_module(checkpoint="nowhere")
    with pytest.raises(UserError, match=r"model\.encoder_changes: for a checkpoint's encoder"):
        make_module(encoder=make_encoder(), encoder_changes={"dropout": 0.1})
    with pytest.raises(
        UserError, match=r"model\.freeze: the encoder has no part 'extractor'; it has .*feature_extractor"
    ):
        make_module(freeze=["extractor"])
    with pytest.raises(UserError, match=r"model\.freeze_encoder_steps is -1"):
        make_module(freeze_encoder_steps=-1)
    with pytest.raises(UserError, match=r"model\.overlap_seconds is 5\.0: .*model\.chunk_seconds \(3\.0\)"):
        make_module(chunk_seconds=3.0)
    with pytest.raises(UserError, match=r"data\.labels: there are no transcripts, and `d2v fit` needs them"):
        fit(tmp_path, {"labels": "none"})
    with pytest.raises(UserError, match=r"--ckpt_path: the head is untrained; give `d2v test` the run"):
        make_trainer(tmp_path).test(make_module(), datamodule=MelodyModule())
    with pytest.raises(UserError, match=r"--ckpt_path: the head is untrained; give `d2v validate` the run"):
        make_trainer(tmp_path, limit_val_batches=None).validate(make_module(), datamodule=MelodyModule())
    with pytest.raises(UserError, match=r"--ckpt_path: the head is untrained; give `d2v predict`"):
        make_trainer(tmp_path).predict(make_module(), datamodule=MelodyModule(labels="none"))


def test_an_encoder_of_another_modality_is_named(tmp_path):

    class Sound(MelodyModule):
        __module__ = "d2v.modalities.speech.data"

    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    with pytest.raises(UserError, match=r"model\.encoder: a VisionFrontEnd cannot read what data \(Sound\) gives"):
        make_trainer(tmp_path).fit(make_module(encoder=encoder), datamodule=Sound())


def test_a_pretraining_checkpoint_is_not_resumed(learned):
    module, _ = learned
    with pytest.raises(UserError, match=r"no fine-tuned CTCModule: it has no alphabet.*model\.checkpoint"):
        module.prepare_for({"d2v": {"encoders": {}}})


# Several processes


def test_two_processes_equal_one(tmp_path):
    """Plain DDP, with parts frozen, and all of the encoder at first: ranks agree, and equal one process."""
    module = {
        "freeze": ["front.feature_extractor.layers"],
        "freeze_encoder_steps": 2,
        "masks": MASKS,
        "encoder_args": {"masked_input": "replace"},
    }
    data = {"num_samples": 50, "batch_size": 2, "global_batch_size": 8}
    with_drop = {**module, "encoder_args": {"masked_input": "drop", "layer_drop": 0.2, "depth": 4}}
    jobs = [
        {"output": str(tmp_path / "a"), "data": data, "module": module},
        {"output": str(tmp_path / "b"), "data": data, "module": with_drop},
        {"output": str(tmp_path / "c"), "data": {**data, "labels": "class"}, "module": module, "kind": "classifier"},
        {"output": str(tmp_path / "table.tsv")},
    ]
    script = Path(__file__).parent / "toy.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(jobs)], capture_output=True, text=True, env=environment, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "find_unused_parameters" not in done.stderr
    for rank in range(2):  # each has a table of its own, and both are named
        names = [line.split("\t")[0] for line in (tmp_path / f"table-rank{rank}.tsv").read_text().splitlines()[1:]]
        assert names == [str(i) for i in range(rank, 16, 2)]
        assert f"table: {tmp_path}/table-rank{rank}.tsv, 8 rows" in done.stderr
    for job in "abc":
        ranks = [torch.load(tmp_path / f"{job}.{rank}", weights_only=True) for rank in range(2)]
        assert ranks[0].keys() == ranks[1].keys()
        assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    one, _ = fit(tmp_path, {"num_samples": 50, "batch_size": 8}, module, max_steps=6)
    ranks = torch.load(tmp_path / "a.0", weights_only=True)
    difference = max(float((ranks[name] - value).abs().max()) for name, value in weights(one).items())
    print(f"two processes: {difference:.2e}")
    assert difference < 1e-4
