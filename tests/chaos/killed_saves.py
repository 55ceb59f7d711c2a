"""A run that saves at every step and is killed (SIGKILL) in the middle of a save again and again; its own process.

python killed_saves.py FOLDER TMPDIR KILLS KEEP SEED [CONTROL]

The last line of stdout is JSON: how many kills left a half-written file, and what was wrong after which. A save takes
some tenths of a second, as the network is large for its place. With CONTROL the checkpoints are plain Lightning's.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import PictureModule, make_module, make_trainer, vision_encoder

from d2v.checkpoints.intact import newest_intact
from d2v.training.callbacks.checkpoint import RunCheckpoint


def train(folder: Path, keep: int, start: str | None, control: bool) -> None:
    checkpoint: Any = RunCheckpoint(every_n_train_steps=1, keep=keep, dirpath=str(folder))
    if control:
        checkpoint = ModelCheckpoint(
            folder, "step-{step}", "step", auto_insert_metric_name=False, save_last="link", save_top_k=keep, mode="max",
            every_n_train_steps=1,
        )  # fmt: skip
    trainer = make_trainer(folder, callbacks=[checkpoint], max_steps=10_000, enable_checkpointing=True)
    student = vision_encoder(image_size=16, patch_size=4, width=512, depth=2, num_heads=8)
    data = PictureModule(num_samples=2, batch_size=1)
    trainer.fit(make_module(student=student), datamodule=data, ckpt_path=start, weights_only=True)


def fork(*args: Any) -> int:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            train(*args)
        finally:
            os._exit(1)
    return child


def is_saving(folder: Path, temporary: Path) -> bool:
    """Whether there is a half-written file."""
    return any(folder.glob(".*")) or any(temporary.glob("tmp*"))


def wait_until(saving: bool, *places: Path) -> float:
    began = time.monotonic()
    while is_saving(*places) != saving:
        time.sleep(0.001)
        assert time.monotonic() - began < 120, "it does not save"
    return time.monotonic() - began


def what_is_wrong(folder: Path, temporary: Path, keep: int, least: int) -> tuple[str, Path | None, int]:
    """After a kill; with the newest checkpoint that is good, and its step."""
    newest, damaged = newest_intact(folder)
    step = 0 if newest is None else int(torch.load(newest, weights_only=True)["global_step"])
    names = os.listdir(folder)
    if damaged:
        return "damaged", newest, step
    if step < least:
        return f"step {step} after {least}", newest, step
    if (folder / "last.ckpt").is_symlink() and not (folder / "last.ckpt").exists():
        return "last.ckpt leads nowhere", newest, step
    if len(names) > keep + 3 and keep != -1:  # last.ckpt, one more before an older one is removed, a half-written one
        return f"{len(names)} files", newest, step
    if any(temporary.glob("tmp*")):
        return "left in the temporary folder", newest, step
    return "", newest, step


def main(folder: Path, temporary: Path, kills: int, keep: int, seed: int, control: bool) -> None:
    draw = random.Random(seed)
    for place in (folder, temporary):
        place.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"hit": 0, "wrong": [], "step": 0}
    start: Path | None = None
    for _ in range(kills):
        child = fork(folder, keep, None if start is None else str(start), control)
        wait_until(False, folder, temporary)  # the start has removed what the last one left
        wait_until(True, folder, temporary)
        seconds = wait_until(False, folder, temporary)
        wait_until(True, folder, temporary)
        time.sleep(draw.random() * 1.2 * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        report["hit"] += is_saving(folder, temporary)
        wrong, start, report["step"] = what_is_wrong(folder, temporary, keep, report["step"])
        if wrong:
            report["wrong"].append(wrong)
            if control:  # that was shown, and what is left may start no more
                break
        for file in temporary.glob("tmp*"):
            file.unlink()
        for file in folder.glob("step-*.ckpt"):
            if keep == -1 and file.resolve() not in (start.resolve(), (folder / "last.ckpt").resolve()):
                file.unlink()
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]), len(sys.argv) > 6)
