"""A damaged file is named by whoever reads it, with what else there is; and what d2v writes needs torch alone."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import d2v as library
from d2v.checkpoints.intact import damage, newest_intact
from d2v.errors import UserError

D2V = Callable[..., tuple[int, str, str]]


def flip(path: Path, byte: int, bit: int = 6) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_a_bit_turned_anywhere_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """In headers, names, the pickle, numbers and the directory: a bit of each seventh byte."""
    path, content = tmp_path / "a.ckpt", {"state_dict": {"a": torch.arange(20.0), "b": torch.ones(3)}, "step": 3}
    torch.save(content, path)
    whole, found = path.read_bytes(), 0
    for byte in range(0, len(whole), 7):
        path.write_bytes(whole)
        flip(path, byte, byte % 8)
        if damage(path) is not None:
            found += 1
            continue
        read = torch.load(path, weights_only=True, mmap=True)  # padding and dates
        assert read["step"] == 3
        assert all(torch.equal(read["state_dict"][name], value) for name, value in content["state_dict"].items())
    assert found > len(whole) // 7 // 3


def test_what_is_no_checkpoint_of_a_run_is_passed_over(tmp_path: Path) -> None:
    others = {"page.ckpt": b"<html>404</html>", "empty.ckpt": b"", "zeros.ckpt": bytes(5000)}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.ckpt").mkdir()
    torch.save({"weights": torch.ones(3)}, tmp_path / "other.ckpt")
    assert newest_intact(tmp_path)[0] is None
    torch.save({"state_dict": {}}, tmp_path / "step-2.ckpt")
    (tmp_path / "last.ckpt").symlink_to("step-2.ckpt")
    assert newest_intact(tmp_path) == (tmp_path / "last.ckpt", [])
    torch.save({"state_dict": {}}, tmp_path / "step-4.ckpt")  # killed before the link was replaced
    assert newest_intact(tmp_path) == (tmp_path / "step-4.ckpt", [])


def test_every_reader_names_a_damaged_file(
    d2v: D2V, tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steps = ["--checkpoint.every_n_train_steps", "1", "--checkpoint.monitor", "val/loss"]
    assert d2v("fit", *tiny, *steps, "--run_name", "a")[0] == 0
    run = Path("runs/a/checkpoints")
    # All that training writes can be read with torch alone.
    code = f"""import glob, sys
sys.modules.update(dict.fromkeys(["d2v", "lightning", "numpy", "jsonargparse"]))
import torch
for file in glob.glob("{run}/*.ckpt"): torch.load(file, weights_only=True)"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    assert d2v("export", "--checkpoint", "runs/a", "--format", "safetensors", "--output", "exported")[0] == 0
    library.load("exported")
    weights = Path("exported/model.safetensors")
    flip(weights, weights.stat().st_size - 2)
    with pytest.raises(UserError, match=r"model\.safetensors: is damaged \(its checksum is wrong\)"):
        library.load("exported")

    best = run / "best.ckpt"
    content = best.read_bytes()
    weight = max(torch.load(best, weights_only=True)["state_dict"].values(), key=torch.numel).numpy().tobytes()
    flip(best, content.index(weight) + 3)
    message = r"best\.ckpt: is damaged \(the checksum of archive/data/\d+ is wrong\); beside it is \S+/last\.ckpt"
    with pytest.raises(UserError, match=message):
        library.load(best)
    library.load("runs/a")
    assert "runs/a/checkpoints/last.ckpt is taken in its place" in caplog.text
    code_and_text = d2v("validate", *tiny, "--ckpt_path", str(best))
    assert code_and_text[0] == 2
    assert f"--ckpt_path {best}: is damaged (" in code_and_text[2]
    assert "beside it is --ckpt_path runs/a/checkpoints/last.ckpt" in code_and_text[2]
    code_and_text = d2v("fit", "--resume", "runs/a", "--trainer.max_steps", "4")
    assert code_and_text[0] == 0, code_and_text[2]
    assert "best.ckpt is damaged (" in code_and_text[2]
    assert damage(best) is None  # the next one has taken its place
    shutil.rmtree("runs")
