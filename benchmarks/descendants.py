"""Do the recipes of emotion2vec and EAT teach a small model more than plain 2.0 speech in as many steps?

    python benchmarks/descendants.py FOLDER [--seeds 5] [--steps 300]

Two sets are made in FOLDER, because none that may be shipped is at hand. **moods**: sentences of eSpeak NG's voices
in five ways of speaking (rate and pitch against the voice's own), to be told for voices that are not in training.
**sounds**: ten kinds of noises under noise of other colours. They stand in for EmoDB and ESC-50: a gain here is no
proof of one there. Each recipe is trained without labels on the training split, four clips a step, and a linear probe
and kNN are read beside the same encoder before training. A line for each run; finished ones are not repeated.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import butter, lfilter

from d2v.data.sound.audio_reader import SAMPLE_RATE, resample
from d2v.demo.espeak import Utterance, synthesise
from d2v.demo.sentences import write_sentences
from d2v.demo.voices import HELD_OUT_VOICES, VOICES

MOODS = {"neutral": (1.0, 0), "angry": (1.25, 12), "sad": (0.8, -12), "happy": (1.1, 25), "bored": (0.85, 0)}
"""Words a minute relative to the voice's own, and what is added to its pitch."""
SECONDS = 2.5
RUNS = {
    "moods": {
        "v2/emotion": ["v2/emotion.yaml", "v2/sizes/speech_tiny.yaml"],
        "v2/speech": ["v2/speech.yaml", "v2/sizes/speech_tiny.yaml"],
    },
    "sounds": {
        "v2/audio": ["v2/audio.yaml", "v2/sizes/audio_tiny.yaml"],
        "v2/speech": ["v2/speech.yaml", "v2/sizes/speech_tiny.yaml"],
    },
}
Draw = np.random.Generator


def make_moods(root: Path) -> None:
    """Twenty sentences of each of sixteen voices to train on, of four others to validate, each in one or all moods."""
    random = np.random.default_rng(0)
    texts = write_sentences(400, 0)
    said: list[Utterance] = []
    files: list[Path] = []
    for split, voices, repeats in (("train", VOICES, 8), ("val", HELD_OUT_VOICES, 12)):
        for number, (voice, rate, pitch) in enumerate(voices):
            for mood, (faster, higher) in MOODS.items():
                for repeat in range(repeats):
                    words = round(rate * faster * random.uniform(0.92, 1.08))
                    tone = int(np.clip(pitch + higher + random.integers(-5, 6), 0, 99))
                    said.append(Utterance(texts[len(said) % len(texts)], voice, words, tone))
                    files.append(root / split / mood / f"{number:02d}-{repeat}.flac")
    for file, (samples, rate) in zip(files, synthesise(said), strict=True):
        clip = resample(torch.from_numpy(samples), rate).numpy()[: int(SECONDS * SAMPLE_RATE)]
        clip = clip / np.abs(clip).max() * random.uniform(0.1, 0.9)
        clip = clip + random.normal(0, 0.003, len(clip))
        _write(file, clip)


def _bursts(random: Draw, starts: np.ndarray, make: Callable[[], np.ndarray]) -> np.ndarray:
    sound = np.zeros(int(SECONDS * SAMPLE_RATE))
    for start in (starts * SAMPLE_RATE).astype(int):
        burst = make()[: len(sound) - start]
        sound[start : start + len(burst)] += burst
    return sound


def _decay(seconds: float, *frequencies: float, random: Draw | None = None) -> np.ndarray:
    """A burst that dies away: tones, or noise if there are none."""
    time = np.arange(int(6 * seconds * SAMPLE_RATE)) / SAMPLE_RATE
    shape = np.exp(-time / seconds)
    if random is not None:
        return shape * random.normal(size=len(time))
    return shape * sum(np.sin(2 * np.pi * frequency * time) for frequency in frequencies)


def _band(noise: np.ndarray, low: float, high: float) -> np.ndarray:
    numerator, denominator = butter(2, [2 * low / SAMPLE_RATE, 2 * high / SAMPLE_RATE], "band")
    return lfilter(numerator, denominator, noise)


def kinds(random: Draw) -> dict[str, np.ndarray]:
    """One clip of each kind."""
    time = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    noise = random.normal(size=len(time))
    uniform, several = random.uniform, random.integers
    sweep = uniform(500, 1000) + uniform(100, 400) * np.sin(2 * np.pi * uniform(0.4, 2) * time + uniform(0, 6))
    bark, bell, motor = uniform(300, 600), uniform(400, 900), uniform(30, 90)
    turns = 2 * np.pi * np.cumsum(motor + np.cumsum(random.normal(size=len(time))) / 100) / SAMPLE_RATE
    swell = 1 + 0.8 * np.sin(2 * np.pi * uniform(0.2, 0.8) * time + uniform(0, 6))
    drops = uniform(0, 2.4, 60)
    return {
        "siren": np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE),
        "rain": _band(noise, 1000, 6000) + _bursts(random, drops, lambda: _decay(0.002, uniform(2e3, 5e3))),
        "bark": _bursts(random, uniform(0, 2.3, several(2, 6)), lambda: _decay(0.06, *(bark * np.arange(1, 6)))),
        "clock": _bursts(random, np.arange(uniform(0, 0.5), 2.4, uniform(0.25, 0.6)), lambda: _decay(0.004, 2000)),
        "fire": _bursts(random, uniform(0, 2.4, several(20, 60)), lambda: _decay(0.003, random=random)),
        "engine": sum(np.sin(harmonic * turns) / harmonic for harmonic in range(1, 12)),
        "wind": _band(noise, 80, 600) * swell,
        "birds": _bursts(random, uniform(0, 2.4, several(4, 14)), lambda: _decay(0.02, uniform(2500, 5000))),
        "bell": _bursts(random, uniform(0, 1.5, several(1, 3)), lambda: _decay(0.3, bell, 2.76 * bell, 5.4 * bell)),
        "steps": _bursts(
            random, np.arange(uniform(0, 0.4), 2.4, uniform(0.4, 0.7)), lambda: _decay(0.03, random=random)
        ),
    }


def make_sounds(root: Path) -> None:
    """Sixty clips of each kind to train on and forty to validate, under coloured noise."""
    for number in range(100):
        random = np.random.default_rng(number)
        split = "train" if number < 60 else "val"
        for kind, sound in kinds(random).items():
            colour = random.uniform(0, 0.95)
            noise = lfilter([1], [1, -colour], random.normal(size=len(sound)))
            clip = sound / sound.std() + random.uniform(0.3, 1.5) * noise
            _write(root / split / kind / f"{number:03d}.flac", clip / np.abs(clip).max() * random.uniform(0.05, 0.9))


def _write(file: Path, clip: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, clip.astype(np.float32), SAMPLE_RATE)


def train_and_probe(
    root: Path, name: str, configs: list[str], seed: int, steps: int, start: Path | None
) -> dict[str, float]:
    """Probe of a trained and of the untrained encoder; the run stays in ``root``."""
    clips = root / name
    run = f"{name}-{configs[0].removesuffix('.yaml').replace('/', '-')}-{seed}"
    options = []
    if start is not None:
        run += "-continued"
        options += ["--model.init_from", str(start)]
    length = (
        ["--data.frames", "256"]
        if "audio" in configs[0]
        else ["--data.min_seconds", "0.5", "--data.max_seconds", str(SECONDS)]
    )
    # Batches of speech are in seconds, of spectrograms in clips: four of 2.5 s.
    batch = "4" if "audio" in configs[0] else str(4 * SECONDS)
    command = [sys.executable, "-m", "d2v.cli"]
    options = [word for config in configs for word in ("--config", config)] + options
    options += ["--data.root", str(clips / "train"), "--data.batch_size", batch, *length, "--run_name", run]
    options += ["--trainer.default_root_dir", str(root), "--seed_everything", str(seed), "--trainer.accelerator", "cpu"]
    options += ["--trainer.max_steps", str(steps), "--trainer.max_epochs", "-1", "--data.num_workers", "0"]
    options += ["--trainer.enable_progress_bar", "false"]
    if not list(root.glob(f"**/{run}/checkpoints/last.ckpt")):
        subprocess.run([*command, "fit", *options], check=True, capture_output=True)
    (folder,) = [path.parent.parent for path in root.glob(f"**/{run}/checkpoints/last.ckpt")]
    probe = [*command, "probe", "--checkpoint", str(folder), "--checkpoint", "random"]
    probe += ["--data.root", str(clips), "--data.train_split", "train", "--data.labels", "folder"]
    told = subprocess.run(probe, check=True, capture_output=True, text=True).stdout
    result = json.loads(told.strip().splitlines()[-1])
    scores = {}
    for score in ("linear_top1", "knn_top1"):
        scores[score], scores[f"untrained {score}"] = result[score], result["baseline"][score]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sets", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--start", type=Path, help="a run of 2.0 speech that moods are trained on from, as published")
    given = parser.parse_args()
    makers = {"moods": make_moods, "sounds": make_sounds}
    for name in given.sets:
        if not (given.folder / name).is_dir():
            makers[name](given.folder / name)
        for seed in range(given.seeds):
            for recipe, configs in RUNS[name].items():
                scores = train_and_probe(given.folder, name, configs, seed, given.steps, given.start)
                print(json.dumps({"set": name, "recipe": recipe, "seed": seed, **scores}), flush=True)


if __name__ == "__main__":
    main()
