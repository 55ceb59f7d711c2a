"""One run that is killed again and again; a process of its own, so that each start is a fork and takes no imports.

python killed_runs.py FOLDER KILLS SEED [CONTROL]

The last line of stdout is JSON: how often each signal was sent, the steps that were saved before and after each, and
how far the weights at the end are from those of a run that nothing stopped. With CONTROL the checkpoints are plain
Lightning's, and nothing listens to signals.
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
from tiny_runs import PictureModule, largest_difference, make_module, make_trainer

from d2v.checkpoints.intact import newest_intact
from d2v.errors import Interrupted
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.callbacks.probe import ProbeCallback

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def steps_for(kills: int) -> int:
    return 40 + 20 * kills


def train(folder: Path, steps: int, start: str | None, control: bool) -> None:
    checkpoint: Any = RunCheckpoint(every_n_train_steps=3, dirpath=str(folder))
    if control:
        checkpoint = ModelCheckpoint(folder, every_n_train_steps=3, save_last=True)
    trainer = make_trainer(
        folder,
        callbacks=[ProbeCallback(25, max_samples=8, linear=False), checkpoint],
        max_steps=steps,
        enable_checkpointing=True,
        limit_val_batches=1,
        val_check_interval=20,
        check_val_every_n_epoch=None,
    )
    data = PictureModule(num_samples=20, batch_size=2, global_batch_size=4)
    data.num_workers = 1
    trainer.fit(make_module(random=True), datamodule=data, ckpt_path=start, weights_only=True)


def fork(folder: Path, steps: int, start: str | None = None, control: bool = False) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()  # a signal for the group then reaches the loading process too
        torch.set_num_threads(1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        train(folder, steps, start, control)
        code = 0
    except Interrupted as stop:
        code = 128 + stop.signal_number
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def saved_step(folder: Path) -> int:
    """Of the newest checkpoint; 0: there is none. A damaged one is an error here: none is ever damaged by a kill."""
    found, damaged = newest_intact(folder)
    if damaged:
        raise SystemExit(f"damaged: {damaged}")
    return 0 if found is None else int(torch.load(found, weights_only=True)["global_step"])


def main(folder: Path, kills: int, seed: int, control: bool) -> None:
    draw = random.Random(seed)
    whole = folder / "whole"
    os.waitpid(fork(whole, steps_for(kills)), 0)
    killed = folder / "killed"
    report: dict[str, Any] = {"kills": [], "done": False}
    while not report["done"]:
        start, _ = newest_intact(killed)
        child = fork(killed, steps_for(kills), None if start is None else str(start), control)
        before, number = saved_step(killed), draw.choice(SIGNALS)
        if len(report["kills"]) < kills:
            deadline = time.monotonic() + 60
            while saved_step(killed) == before and time.monotonic() < deadline:
                time.sleep(0.01)  # it gets on at least to the next checkpoint, so that the test comes to an end
            time.sleep(draw.random() * 0.2)
            os.killpg(child, number)
            sent = time.monotonic()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            report["kills"].append((int(number), code, before, saved_step(killed), time.monotonic() - sent))
            report["done"] = code == 0
        else:
            report["done"] = True
            report["code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    states = [torch.load(newest_intact(run)[0], weights_only=True)["state_dict"] for run in (whole, killed)]
    report["difference"] = largest_difference(*states)
    report["left"] = [path.name for path in killed.rglob("*") if path.name.startswith(".")]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), len(sys.argv) > 4)
