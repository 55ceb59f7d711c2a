"""Healthy runs and runs with a fault, for 200 steps each: what is logged of them, and what the monitor says.

    python benchmarks/monitor.py healthy --data data/demo --sets SETS --output healthy.json
    python benchmarks/monitor.py faults --data data/demo --sets SETS --output faults.json
    python benchmarks/monitor.py judge healthy.json faults.json > benchmarks/monitor.md

`--data` holds what `d2v prepare demo vision|speech|text|joint --output DATA/NAME` wrote; `--sets` has cifar10,
librispeech and imdb. `--only NAME` runs those whose name contains it; results are added to the file. One thread.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import soundfile as sf
import torch
from PIL import Image

from d2v.commands.early_checks import checked_words
from d2v.commands.run import RunCLI, run_trainer
from d2v.monitoring.faults import RULES, find_faults
from d2v.monitoring.faults.view import View, encoders_of
from d2v.training.callbacks.monitor import Monitor
from d2v.verdicts import History, Settings

STEPS = 200
Change = Callable[[L.Trainer, L.LightningModule], None]


class Stop(L.Callback):
    """Ends a run after so many steps of a schedule that is longer, and changes something before the first."""

    def __init__(self, change: Change | None) -> None:
        self.change = change

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.change is not None:
            self.change(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step >= STEPS


class ShortRun(RunCLI):
    """A run of the command line that ends early."""

    change: Change | None = None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        return super()._instantiate_trainer(config, [*callbacks, Stop(self.change)])


def recipes(data: Path, sets: Path) -> dict[str, list[str]]:
    """Words of the healthy runs: recipes as they are, but for smaller batches of pictures and text."""
    return {
        "demo/vision": [f"--data.root={data}/vision", "--data.batch_size=8", "--trainer.callbacks.max_samples=100"],
        "demo/speech": [f"--data.root={data}/speech", "--data.batch_size=8"],
        "demo/text": [f"--data.root={data}/text/raw/train.txt", "--data.batch_size=768"],
        "demo/joint": [
            f"--data.parts.vision.root={data}/joint/*/train/*/*.[jp][pn]g",
            f"--data.parts.speech.root={data}/joint/speech/**/train/**/*.flac",
            f"--data.parts.text.root={data}/joint/*/raw/train.txt",
            "--data.parts.vision.batch_size=8",
        ],
        "learn/vision_cifar10": [f"--data.root={sets}/cifar10", "--data.batch_size=8"],
        "learn/speech_mini_librispeech": [
            f"--data.root={sets}/librispeech/LibriSpeech",
            "--data.batch_size=8",
            "--trainer.callbacks.max_samples=50",
        ],
        "learn/text_imdb": [f"--data.root={sets}/imdb/raw.txt", "--data.batch_size=768"],
        "learn/joint": [
            f"--data.parts.vision.root={sets}/cifar10",
            f"--data.parts.speech.root={sets}/librispeech/LibriSpeech",
            f"--data.parts.text.root={sets}/imdb/raw.txt",
            "--data.parts.vision.batch_size=8",
            "--data.parts.speech.batch_size=6",
            "--data.parts.text.batch_size=768",
        ],
    }


SEEDS = {"demo/joint": 3, "learn/joint": 2, "learn/speech_mini_librispeech": 3, "demo/vision": 5, "demo/text": 4}


def run(config: str, words: list[str], change: Change | None = None) -> dict[str, Any]:
    """Train, and give what was logged, the settings and the verdicts."""
    folder = tempfile.mkdtemp()
    cli = ShortRun.__new__(ShortRun)
    cli.change = change
    threads = torch.get_num_threads()
    failure = ""
    quiet = ["--trainer.enable_progress_bar=false", "--checkpoint.every=null"]
    given = [f"--config={config}.yaml", f"--trainer.default_root_dir={folder}", "--run_name=run", quiet[0], *words]
    try:
        run_trainer(checked_words("fit", given), cli)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    torch.set_num_threads(threads)
    found = [callback for callback in cli.trainer.callbacks if isinstance(callback, Monitor)]
    path = Path(folder) / "run" / "verdicts.jsonl"
    said = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    shutil.rmtree(folder)
    history = found[0].history
    return {
        "words": words,
        "settings": asdict(history.settings),
        "rows": history.rows,
        "verdicts": said,
        "failure": failure,
    }


def _write(folder: Path, name: str, wave: np.ndarray, rate: int, subtype: str = "PCM_16") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sf.write(folder / f"{name}.wav", wave, rate, subtype)


def made_sound(data: Path, folder: Path) -> None:
    """Copies of the demo's speech with something wrong about each."""
    files = sorted((data / "speech" / "train").rglob("*.flac"))[::8]
    noise = np.random.default_rng(0)
    for number, path in enumerate(files):
        wave, rate = sf.read(path, dtype="float32")
        loud = wave / np.abs(wave).max()
        _write(folder / "fast", f"{number}", loud, 2 * rate)
        _write(folder / "slow", f"{number}", loud, rate // 2)
        _write(folder / "eight_bits", f"{number}", loud * 0.3, rate, "PCM_U8")
        _write(folder / "silent", f"{number}", noise.integers(-1, 2, len(wave)).astype("float32") / 2**15, rate)
        _write(folder / "offset", f"{number}", loud * 0.4 + 0.5, rate)
        _write(folder / "clipped", f"{number}", np.clip(loud * 12, -1, 1), rate)


def made_pictures(data: Path, folder: Path) -> None:
    """Copies of the demo's pictures with something wrong about each."""
    files = sorted((data / "vision" / "train").rglob("*.[jp][pn]g"))
    for name in ("copies", "alike", "stamped"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(400):
        shutil.copy(files[7], folder / "copies" / f"{number}.png")
    picture = Image.open(files[7]).convert("RGB").resize((96, 96))
    for number in range(400):
        picture.save(folder / "alike" / f"{number}.jpg", quality=60 + number % 40)
    for split, chosen in (("train", files[::20]), ("val", files[10::40])):
        for path in chosen:
            label = path.parent.name
            stamped = Image.open(path).convert("RGB")
            colour = [int(byte) for byte in hashlib.md5(label.encode()).digest()[:3]]
            stamped.paste(tuple(colour), (0, 0, stamped.width, stamped.height // 2))
            target = folder / "stamped" / split / label
            target.mkdir(parents=True, exist_ok=True)
            stamped.save(target / f"{label}_{path.stem}.png")


def made_text(data: Path, folder: Path) -> None:
    """Text that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    words = (data / "text" / "raw" / "train.txt").read_text(encoding="utf-8")[:400_000]
    blank = "\n\n".join("\u00a0 . " * 300 for _ in range(900))
    (folder / "blank.txt").write_text(words[:200_000] + "\n\n" + blank, encoding="utf-8")
    labels = "\n".join(("positive", "negative", "neutral")[ord(letter) % 3] for letter in words[:60_000])
    (folder / "labels.txt").write_text(labels, encoding="utf-8")


def slow_loading(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    kind = type(trainer.datamodule.train_dataset())
    load = kind.load

    def slowly(self: Any, index: int) -> Any:
        time.sleep(0.03)
        return load(self, index)

    kind.load = slowly


def teacher_stands(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    pl_module.method.move_teacher = lambda decay: None


def frozen(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    pl_module.method.student.trunk.requires_grad_(False)


def constant_ids(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    collate = pl_module.on_after_batch_transfer

    def constant(batch: Any, index: int) -> Any:
        batch = collate(batch, index)
        return batch._replace(inputs=torch.full_like(batch.inputs, 17))

    pl_module.on_after_batch_transfer = constant


def upside_down(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    collate = pl_module.on_after_batch_transfer
    pl_module.on_after_batch_transfer = lambda batch, index: (given := collate(batch, index))._replace(
        inputs=given.inputs.flip(-1)
    )


def faults(work: Path) -> dict[str, tuple[str, list[str], Change | None, str]]:
    """Each fault: recipe, words, change, and the verdict that names it."""
    sound, pictures, text = work / "sound", work / "pictures", work / "text"
    everything = "--data.train_split=null"
    alone = "--trainer.callbacks=null"
    return {
        "learning rate x 100, pictures": ("demo/vision", ["--model.optimizer.lr=0.2"], None, "learning-rate-too-high"),
        "learning rate x 100, speech": ("demo/speech", ["--model.optimizer.lr=0.1"], None, "learning-rate-too-high"),
        "learning rate x 100, text": ("demo/text", ["--model.optimizer.lr=0.5"], None, "learning-rate-too-high"),
        "no warm-up": ("demo/text", ["--model.schedule.warmup=0"], None, "no-warmup"),
        "EMA decay 0": (
            "demo/speech",
            ["--model.ema.start=0", "--model.ema.end=0", "--model.ema.anneal=0"],
            None,
            "teacher-too-fast",
        ),
        "teacher never moves": ("demo/text", [], teacher_stands, "teacher-still"),
        "EMA decay 1 at the start": (
            "demo/text",
            ["--model.ema.start=1", "--model.ema.anneal=0.9"],
            None,
            "teacher-still",
        ),
        "shared extractor": (
            "learn/speech_mini_librispeech",
            ["--model.shared_with_teacher=[feature_extractor]"],
            None,
            "extractor-collapse",
        ),
        "targets not normalised": (
            "demo/vision",
            ["--model.targets.layer_norm=null", "--model.targets.mean_norm=null"],
            None,
            "targets-not-normalised",
        ),
        "mask ratio 0.02": ("demo/text", ["--model.masking.mask_ratio=0.02"], None, "mask-too-small"),
        "mask ratio 0.98": ("demo/text", ["--model.masking.mask_ratio=0.98"], None, "mask-too-large"),
        "twice too fast": ("demo/speech", [f"--data.root={sound}/fast", everything], None, "sound-too-fast"),
        "twice too slow": ("demo/speech", [f"--data.root={sound}/slow", everything], None, "sound-too-slow"),
        "silent": ("demo/speech", [f"--data.root={sound}/silent", everything], None, "coarse-sound"),
        "8 bits": ("demo/speech", [f"--data.root={sound}/eight_bits", everything], None, "coarse-sound"),
        "copies of a picture": ("demo/vision", [f"--data.root={pictures}/copies", alone], None, "repeated-inputs"),
        "one picture, saved anew": ("demo/vision", [f"--data.root={pictures}/alike", alone], None, "alike-pictures"),
        "blank pages": ("demo/text", [f"--data.root={text}/blank.txt"], None, "constant-inputs"),
        "pixels of another mean": (
            "demo/vision",
            ["--data.mean=[0.5,0.5,0.5]", "--data.std=[0.5,0.5,0.5]", f"--model.init_from={work}/pictures_run", alone],
            None,
            "pixels-not-normalised",
        ),
        "fp16": ("demo/text", ["--trainer.precision=16-true"], None, "fp16-overflow"),
        "slow loader": ("demo/text", [], slow_loading, "loader-too-slow"),
        "labels in the pictures": ("demo/vision", [f"--data.root={pictures}/stamped"], None, "probe-says-nothing"),
        "weight decay x 1,000": ("demo/vision", ["--model.optimizer.weight_decay=50"], None, "weights-shrink"),
        "betas 0, 0": ("demo/text", ["--model.optimizer.betas=[0.0,0.0]"], None, "updates-too-large"),
        "betas exchanged": ("demo/speech", ["--model.optimizer.betas=[0.98,0.9]"], None, "?"),
        "clipping at 1e-6": ("demo/text", ["--trainer.gradient_clip_val=1e-6"], None, "gradients-cut"),
        "dropout 0.9": ("demo/text", ["--model.student.trunk.dropout=0.9"], None, "learns-nothing"),
        "labels as text": (
            "demo/text",
            [f"--data.root={text}/labels.txt", "--data.vocab_size=300"],
            None,
            "few-tokens",
        ),
        "DC offset": ("demo/speech", [f"--data.root={sound}/offset", everything], None, ""),
        "clipped": ("demo/speech", [f"--data.root={sound}/clipped", everything], None, "clipped-sound"),
        "spectra upside down": (
            "v2/audio",
            ["--config=v2/sizes/audio_tiny.yaml", "--data.batch_size=2"],
            upside_down,
            "spectrum-upside-down",
        ),
        "constant ids": ("demo/text", [], constant_ids, "constant-inputs"),
        "learning rate 0": ("demo/text", ["--model.optimizer.lr=0"], None, "learning-rate-zero"),
        "frozen trunk": ("demo/speech", [], frozen, "weights-still"),
        "a batch of one": ("demo/vision", ["--data.batch_size=1"], None, "small-batch"),
    }


def replayed(entry: dict[str, Any]) -> tuple[dict[str, int], dict[int, float]]:
    """What today's rules say of a run that was logged: the step of each fault, and the worst figure of each rule."""
    settings = Settings(**{**entry["settings"], "betas": tuple(entry["settings"]["betas"])})
    said: dict[str, int] = {}
    worst: dict[int, float] = {}
    for count in range(1, len(entry["rows"]) + 1):
        history = History([(step, row) for step, row in entry["rows"][:count]], settings)
        for verdict in find_faults(history):
            said.setdefault(verdict.fault, verdict.step)
        for encoder in encoders_of(history):
            for number, rule in enumerate(RULES):
                figure = rule.figure(View(history, encoder))
                if figure is not None:
                    nearest = max if rule.limit.above else min
                    worst[number] = nearest(figure, worst.get(number, figure))
    return said, worst


def judge(files: list[Path]) -> None:
    """Print tables of the runs and of the limits."""
    nearest: dict[int, tuple[float, str]] = {}
    print("| run | what is wrong | what the monitor says, at step |\n| --- | --- | --- |")
    for path in files:
        for name, entry in json.loads(path.read_text()).items():
            said, worst = replayed(entry)
            told = ", ".join(f"`{fault}` {step}" for fault, step in said.items()) or "nothing"
            named = entry.get("named")
            print(f"| {name} | {f'`{named}`' if named else 'nothing'} | {told} |")
            for number, figure in worst.items():
                better = nearest.get(number)
                above = RULES[number].limit.above
                if named is None and (better is None or (figure > better[0] if above else figure < better[0])):
                    nearest[number] = figure, name
    print("\n| verdict | a fault is | limit | worst healthy run |\n| --- | --- | --- | --- |")
    for number, rule in enumerate(RULES):
        figure, name = nearest.get(number, (float("nan"), "none has it"))
        sign = "at least" if rule.limit.above else "at most"
        print(f"| `{rule.fault}` | {sign} | {rule.limit.at:g} | {figure:.3g} ({name}) |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["healthy", "faults", "judge"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", type=Path, help="folder for data with faults")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if args.what == "judge":
        judge(args.files)
        return
    torch.set_num_threads(1)
    if args.what == "faults":
        for make, name in ((made_sound, "sound"), (made_pictures, "pictures"), (made_text, "text")):
            if not (args.work / name).exists():
                make(args.data, args.work / name)
    done = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    if args.what == "faults":
        known = recipes(args.data, args.sets)
        for name, (config, words, change, named) in faults(args.work).items():
            if args.only in name and name not in done:
                print(name, file=sys.stderr, flush=True)
                done[name] = {**run(config, [*known.get(config, []), *words], change), "named": named}
                args.output.write_text(json.dumps(done))
        return
    for number in range(1, 6):
        for name, words in recipes(args.data, args.sets).items():
            key = f"{name} {number}"
            if number > SEEDS.get(name, 4) or args.only not in key or key in done:
                continue
            print(key, file=sys.stderr, flush=True)
            done[key] = run(name, [*words, f"--seed_everything={number}"])
            args.output.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
