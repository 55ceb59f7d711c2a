"""Pretraining on sound under Lightning's loop: padding, crops, dropout and LayerDrop; resuming, processes, logs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
from encoders import speech_encoder
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import SaveWeights, largest_difference, make_module, make_trainer, weights

from d2v.modalities.speech.data import LibriSpeechDataModule
from d2v.model.heads import ConvDecoder1d
from d2v.model.masking import SpanMasking
from d2v.model.targets import TopKTargets
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.module import Data2VecModule


def speech_module() -> Data2VecModule:
    """2.0 with everything that is random in it."""
    torch.manual_seed(0)
    student = speech_encoder(
        width=16,
        depth=3,
        num_heads=2,
        extractor=((8, 10, 5), (8, 8, 8), (8, 4, 4), (8, 2, 2)),
        position_layers=1,
        position_kernel=3,
        position_groups=2,
        dropout=0.1,
        attention_dropout=0.1,
        layer_drop=0.3,
    )
    return make_module(
        student=student,
        masking=SpanMasking(0.5, 3, 0.05),
        head=lambda width: ConvDecoder1d(width, 8, 1, 3, 2, mask_noise=0.1, input_dropout=0.1),
        targets=TopKTargets(2),
        cls_loss=None,
        num_masks=2,
        shared_with_teacher=["feature_extractor"],
    )


def data(root: Path, **changes: Any) -> LibriSpeechDataModule:
    settings: dict[str, Any] = {"batch_size": 4, "num_workers": 0, "min_seconds": 0.3, "max_seconds": 1.0, **changes}
    return LibriSpeechDataModule(str(root), **settings)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty clips of 0.5 to 1.4 seconds."""
    root = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for number in range(30):
        wave = generator.standard_normal(round(16_000 * (0.5 + 0.03 * number))) * 0.1
        soundfile.write(root / f"{number:02d}.wav", wave, 16_000)
    return root


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path: Path, sounds: Path) -> None:
    whole = speech_module()
    saving = RunCheckpoint(dirpath=str(tmp_path / "checkpoints"), every_n_train_steps=7, keep=-1)
    make_trainer(tmp_path, max_steps=16, callbacks=[saving], enable_checkpointing=True).fit(
        whole, datamodule=data(sounds)
    )
    resumed = speech_module()
    checkpoint = str(tmp_path / "checkpoints" / "step-7.ckpt")
    make_trainer(tmp_path, max_steps=16).fit(resumed, datamodule=data(sounds), ckpt_path=checkpoint)
    assert largest_difference(weights(whole), weights(resumed)) == 0


def test_names_of_sound_are_in_metrics_csv(tmp_path: Path, sounds: Path) -> None:
    logger = CSVLogger(str(tmp_path), name="", version="")
    trainer = make_trainer(tmp_path, max_steps=6, logger=logger, log_every_n_steps=2)
    trainer.fit(speech_module(), datamodule=data(sounds))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    padding = [float(row["throughput/padding_fraction"]) for row in rows if row["throughput/padding_fraction"]]
    assert padding
    assert all(0 <= fraction < 0.3 for fraction in padding)
    assert any(padding)
    assert any(float(row["throughput/audio_seconds_per_second"] or 0) > 0 for row in rows)
    masked = [float(row["train/masked_fraction"]) for row in rows if row["train/masked_fraction"]]
    assert all(0.45 < fraction <= 0.5 for fraction in masked)  # of what is no padding; int() rounds down


def run_two_processes(output: str, root: str) -> None:
    trainer: L.Trainer = make_trainer(
        Path(output).parent, max_steps=6, devices=2, strategy="ddp_fork", callbacks=[SaveWeights(output)]
    )
    trainer.fit(speech_module(), datamodule=data(Path(root), global_batch_size=16))


def test_two_processes_that_drop_different_blocks_stay_together(tmp_path: Path, sounds: Path) -> None:
    """Plain DDP, without a search for unused parameters, would stop if a dropped block had no gradient."""
    output = str(tmp_path / "weights")
    subprocess.run(
        [sys.executable, __file__, json.dumps([output, str(sounds)])],
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
    )
    first, second = (torch.load(f"{output}.{rank}") for rank in (0, 1))
    assert largest_difference(first, second) == 0
    assert largest_difference(first, weights(speech_module())) > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_two_processes(*json.loads(sys.argv[1]))
