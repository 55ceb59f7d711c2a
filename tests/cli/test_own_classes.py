"""Class paths: what the user types is imported from the working folder too, what a checkpoint names never is."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import D2V

MINE = """
from pathlib import Path
import torch
from lightning.pytorch.callbacks import Callback
from d2v.model.front_end import FrontEnd
from d2v.modalities.vision.front_end import VisionFrontEnd

Path("imported").touch()

class Hello(Callback):
    def on_fit_start(self, trainer, module):
        print("hello from my callback")

class Needy(Callback):
    def __init__(self, folder: str):
        self.folder = folder

class Blur(torch.nn.Module):
    def forward(self, picture):
        return picture
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mine_in_a_test.py").write_text(MINE)
    (tmp_path / "part.yaml").write_text("model: {init_args: {masking: {init_args: {mask_ratio: 0.5}}}}")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("mine_in_a_test", None)


def test_the_working_folder_counts_for_what_the_user_types(d2v: D2V, tiny: list[str]) -> None:
    own = ["--trainer.callbacks", "mine_in_a_test.Hello", "--data.augment", "mine_in_a_test.Blur"]
    code, out, err = d2v("fit", *tiny, *own, "--trainer.max_steps", "1")
    assert code == 0, err
    assert "hello from my callback" in out
    code, _, err = d2v("fit", *tiny, "--trainer.callbacks", "mine_in_a_test.Helo")
    assert code == 2
    assert "mine_in_a_test.Helo: module 'mine_in_a_test' has no attribute 'Helo'; check its spelling" in err
    code, _, err = d2v("fit", *tiny, "--trainer.callbacks", "nowhere_in_a_test.Hello")
    assert code == 2
    assert "put its file into the working folder" in err
    code, _, err = d2v("fit", *tiny, "--trainer.callbacks", "mine_in_a_test.Needy")
    assert code == 2
    assert "trainer.callbacks: Needy needs folder, such as --trainer.callbacks.folder VALUE" in err
    code, _, err = d2v("fit", "--config", "part.yaml")
    assert code == 2
    assert "model: the config names no class; put a whole recipe before it, --config own/pictures.yaml" in err


def test_a_file_that_an_installed_package_hides_is_named(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text(MINE)
    code, _, err = d2v("fit", *tiny, "--trainer.callbacks", "datasets.Hello")
    assert code == 2
    assert "datasets.py of the working folder is hidden by" in err


def test_a_checkpoint_imports_nothing_from_the_working_folder(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    assert d2v("fit", *tiny, "--run_name", "a", "--trainer.max_steps", "1")[0] == 0
    content = torch.load(tmp_path / "runs/a/checkpoints/last.ckpt", weights_only=True)
    file = tmp_path / "strangers.ckpt"
    content["d2v"]["encoders"][""]["recipe"]["front"]["class_path"] = "mine_in_a_test.Front"
    torch.save(content, file)
    for option in ("--model.init_from", "--resume", "--ckpt_path"):
        d2v("fit", *tiny, option, file)
        assert not (tmp_path / "imported").exists()
        torch.save(content, file)  # a run that went on has written its own there
    code, _, err = d2v("probe", "--checkpoint", file, "--config", "learn/vision_cifar10.yaml", *tiny[-2:])
    assert code == 2
    assert "--allow mine_in_a_test" in err
    assert not (tmp_path / "imported").exists()
