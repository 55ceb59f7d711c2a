"""`d2v export` on the command line: what is printed, and how it ends."""

import sys
from pathlib import Path

import pytest

from d2v.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))
from exporting import make_encoder, save


def test_messages_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = str(tmp_path / "new")
    mixed = save(tmp_path / "mixed.ckpt", make_encoder("vision2", norm_first=True))
    assert main(["export", "--checkpoint", str(mixed), "--output", folder, "--format", "hf"]) == 2
    assert "norm_first" in capsys.readouterr().err
    checkpoint = str(save(tmp_path / "a.ckpt", make_encoder("vision2")))
    arguments = ["export", "--checkpoint", checkpoint, "--output", folder]
    assert main([*arguments, "--format", "pickle"]) == 2
    assert "invalid choice: 'pickle'" in capsys.readouterr().err
    assert main([*arguments, "--format", "safetensors"]) == 0
    assert capsys.readouterr().out == (f"d2v, pretrained; licence: your own weights\n  student\nwritten to {folder}\n")
    assert main([*arguments, "--format", "safetensors"]) == 2
    assert f"--output {folder}: there is something already" in capsys.readouterr().err
