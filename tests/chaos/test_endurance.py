"""Thousands of steps of tiny models: memory, file handles and threads do not grow, in any process of a run.

`make chaos` trains 5,000 steps of each medium; the tests of every day look at handles and threads of short runs.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from full_count import CHAOS, STEPS
from PIL import Image

WARM_UP, MOST_GROWTH = 1000, 0.02

TINY = {
    "--model.student.trunk.width": "16",
    "--model.student.trunk.depth": "1",
    "--model.student.trunk.num_heads": "2",
    "--model.num_masks": "1",
    "--model.targets.top_k": "1",
    "--model.head.decoder_width": "16",
    "--model.head.num_layers": "1",
    "--model.schedule.warmup": "0.1",
    "--trainer.accelerator": "cpu",
    "--trainer.enable_progress_bar": "false",
    "--checkpoint.every_n_train_steps": "500",
}
RECIPES = {
    "pictures": {
        "--config": "learn/vision_cifar10.yaml",
        "--model.student.front.image_size": "16",
        "--data.image_size": "16",
        "--data.batch_size": "4",
        "--trainer.callbacks": "null",
    },
    "speech": {
        "--config": "own/speech.yaml",
        "--length": "null",
        "--model.student.front.extractor": "[[16,10,5],[16,8,8],[16,8,8]]",
        "--model.student.front.position_groups": "4",
        "--model.student.front.position_layers": "2",
        "--model.head.groups": "2",
        "--data.batch_size": "4",
        "--data.min_seconds": "0.25",
    },
    "text": {
        "--config": "own/text.yaml",
        "--length": "null",
        "--data.vocab_size": "300",
        "--model.student.front.vocab_size": "305",
        "--data.batch_size": "256",
        "--data.block_size": "64",
    },
}


def write_data(medium: str, root: Path) -> Path:
    generator = np.random.default_rng(0)
    (root / "train" / "a").mkdir(parents=True)
    if medium == "text":
        words = ["".join(map(chr, generator.integers(97, 123, 5))) for _ in range(300)]
        documents = [" ".join(generator.choice(words, 60)) for _ in range(400)]
        (root / "all.txt").write_text("\n\n".join(documents))
        return root / "all.txt"
    for number in range(300):
        if medium == "pictures":
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / "a" / f"{number:03d}.png")
        else:  # each clip has another length
            wave = generator.normal(0, 0.1, 4_000 + 53 * number)
            soundfile.write(root / "train" / "a" / f"{number:03d}.wav", wave, 16_000)
    return root


def words_of(medium: str, root: Path, steps: int) -> list[str]:
    options = {**RECIPES[medium], **TINY, "--data.root": str(root), "--trainer.max_steps": str(steps)}
    return ["fit", *(word for option in options.items() for word in option)]


def growth(medium: str, folder: Path, steps: int, *more: str) -> tuple[float, list[dict[str, int]]]:
    """By what share memory grew after the warm-up, and all that was measured from then on."""
    root, measured = write_data(medium, folder / "data"), folder / "measured.jsonl"
    callback = ["--trainer.callbacks+", "memory_use.MemoryUse", "--trainer.callbacks.path", str(measured), *more]
    words = [*words_of(medium, root, steps), "--data.num_workers", "1", *callback]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "d2v.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    rows = [row for row in rows if row["step"] >= WARM_UP]
    first = statistics.median(row["memory"] for row in rows[:10])
    last = statistics.median(row["memory"] for row in rows[-10:])
    return last / first - 1, rows


@pytest.mark.skipif(not CHAOS, reason="of `make chaos`")
@pytest.mark.parametrize("medium", RECIPES)
def test_thousands_of_steps_take_no_more_memory(medium: str, tmp_path: Path) -> None:
    grown, rows = growth(medium, tmp_path, STEPS)
    print(f"{medium}: {grown:+.2%}", rows[0], rows[-1])
    assert grown < MOST_GROWTH
    for what in ("files", "threads", "processes"):
        assert max(row[what] for row in rows[-10:]) <= max(row[what] for row in rows[:10]), what


@pytest.mark.skipif(not CHAOS, reason="of `make chaos`")
def test_a_leak_would_be_seen(tmp_path: Path) -> None:
    """The control: 20 kB a step."""
    grown, _ = growth("pictures", tmp_path, WARM_UP + 1500, "--trainer.callbacks.leak", "20000")
    assert grown > MOST_GROWTH


@pytest.mark.parametrize("medium", RECIPES if CHAOS else ["speech"])
def test_a_run_leaves_no_handle_and_no_thread(medium: str, tmp_path: Path, d2v: D2V) -> None:  # noqa: F811
    root = write_data(medium, tmp_path / "data")
    counts = []
    for _ in range(3):
        code, _, err = d2v(*words_of(medium, root, 3), "--data.num_workers", "0")
        assert code == 0, err
        gc.collect()
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[1] == counts[2]


def test_what_onednn_keeps_has_a_bound() -> None:
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) <= 64
