"""A checkpoint is there as a whole or not at all, and nothing else stays beside it."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_runs import PictureModule, make_module, make_trainer

from d2v.training import checkpoint_io
from d2v.training.callbacks.checkpoint import RunCheckpoint
from d2v.training.checkpoint_io import SafeCheckpointIO


def test_a_full_disk_leaves_the_one_before_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoints" / "step-2.ckpt"
    SafeCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(content: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 3520 vs 3478")  # torch's own

    monkeypatch.setattr(checkpoint_io.torch, "save", full)
    message = r"step-2\.ckpt: the checkpoint cannot be written \(no space left.*make room, and continue with --resume"
    with pytest.raises(OSError, match=message):
        SafeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert [file.name for file in path.parent.iterdir()] == ["step-2.ckpt"]
    assert torch.load(path) == {"step": 1}


def test_what_was_killed_while_saving_leaves_no_checkpoint_and_is_removed_at_the_next_start(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # killed when all is written but not yet on the disk
        os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        SafeCheckpointIO().save_checkpoint({"a": torch.ones(10)}, tmp_path / "step-2.ckpt")
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == [".step-2.ckpt.0.unfinished"]
    checkpoint = RunCheckpoint(every_n_train_steps=2, keep=-1, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, max_steps=5, callbacks=[checkpoint], enable_checkpointing=True)
    trainer.fit(make_module(), datamodule=PictureModule())
    assert {file.name for file in tmp_path.iterdir()} == {"step-2.ckpt", "step-4.ckpt", "step-5.ckpt", "last.ckpt"}
    assert os.readlink(tmp_path / "last.ckpt") == "step-5.ckpt"


@pytest.mark.parametrize("keep", [0, 1])
def test_at_every_moment_there_is_a_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    """Whatever is renamed or removed: before and after it, last.ckpt can be loaded."""
    steps = []
    for name in ("replace", "unlink", "remove"):
        original = getattr(os, name)

        def watched(*args: object, original: object = original, **kwargs: object) -> None:
            if steps:
                steps.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"])
            original(*args, **kwargs)  # type: ignore[operator]
            if (tmp_path / "last.ckpt").exists() or steps:
                steps.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"])

        monkeypatch.setattr(os, name, watched)
    checkpoint = RunCheckpoint(every_n_train_steps=1, keep=keep, dirpath=str(tmp_path))
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[checkpoint], enable_checkpointing=True)
    trainer.fit(make_module(), datamodule=PictureModule())
    assert steps == sorted(steps)
    assert set(steps) == {1, 2, 3, 4}
