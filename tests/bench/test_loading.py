"""`d2v bench data`: rates and stages of real loading, beside others."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import d2v
from d2v.bench.loading import H100
from d2v.bench.stopwatch import Clock, Stopwatch
from d2v.cli import main
from d2v.data.sources.source import Files
from d2v.errors import UserError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    return tmp_path


def test_pictures_beside_others(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = Files.read
    words = ["bench", "data", "--config", "demo/vision.yaml", "--data.root", str(pictures), "--data.batch_size", "4"]
    assert main([*words, "--workers", "0", "--seconds", "0.1", "--peers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["unit"] == "images"
    assert found["cores_for_an_h100"] == pytest.approx(H100["images"] / found["units_per_second_a_core"])
    assert set(found["stages"]) == {"read", "decode", "augment", "collate"}
    assert sum(found["stages"].values()) == pytest.approx(1)
    assert set(found["peers"]) == {"torchvision", "datasets"}
    assert found["units_per_second"] > 0
    assert any(line.startswith("an H100     needs") for line in lines)
    assert Files.read is read, "what was timed is as before"


def test_sound_and_its_peer(tmp_path: Path) -> None:
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 40_000), 16_000)
    values = {"root": str(tmp_path), "train_split": None, "batch_size": 8, "max_seconds": 2}
    found = d2v.bench_data("v2/speech.yaml", values, workers=0, seconds=0.05, peers=True)
    assert set(found["peers"]) == {"soundfile"}
    assert "audio seconds a second" in str(found)


def test_what_cannot_be_timed(pictures: Path) -> None:
    with pytest.raises(UserError, match="--config: there is no `data:` section"):
        d2v.bench_data("loggers/wandb.yaml", {"root": str(pictures)})
    with pytest.raises(UserError, match=r"data\.num_workers is -1"):
        d2v.bench_data("demo/vision.yaml", {"root": str(pictures)}, workers=-1)
    with pytest.raises(UserError, match="--seconds nan: give a time above 0"):
        d2v.bench_data("demo/vision.yaml", {"root": str(pictures)}, seconds=float("nan"))


def test_of_stages_within_each_other_the_innermost_counts() -> None:
    now = iter(range(10))
    stages = Stopwatch()
    stages.begin(Clock(torch.device("cpu"), lambda: float(next(now))))
    stages.wrap(stages.wrap(int, "inner"), "outer")()
    assert stages.end() == {"loop": 2, "outer": 2, "inner": 1}
