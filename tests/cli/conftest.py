"""A tiny tree of pictures, a tiny recipe, and the command line inside this process."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import d2v  # noqa: F401  (a fixture)
from PIL import Image

TINY = {
    "--config": "learn/vision_cifar10.yaml",
    "--model.student.front.image_size": "16",
    "--model.student.trunk.width": "16",
    "--model.student.trunk.depth": "2",
    "--model.student.trunk.num_heads": "2",
    "--model.num_masks": "1",
    "--model.targets.top_k": "2",
    "--model.head.decoder_width": "8",
    "--model.head.num_layers": "1",
    "--data.image_size": "16",
    "--data.batch_size": "4",
    "--trainer.max_steps": "3",
    "--trainer.accelerator": "cpu",
    "--trainer.log_every_n_steps": "1",
    "--trainer.limit_val_batches": "1.0",
    "--trainer.callbacks": "null",
    "--trainer.enable_progress_bar": "false",
}


@pytest.fixture(autouse=True)
def _no_run_of_wandb_is_left() -> Iterator[None]:
    """The next test of this process would write into it."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for number in range(count):
            folder = root / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


@pytest.fixture
def tiny(tree: Path) -> list[str]:
    """Options of a recipe that trains three steps in a second."""
    return [*(word for option in TINY.items() for word in option), "--data.root", str(tree)]
