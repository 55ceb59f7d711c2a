"""Every command that reads a checkpoint refuses one that would run something: exit code 2, no traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import D2V
from pickle_attacks import FORMS, WRAPS, attacks

WAYS: dict[str, Callable[[Path, Path, list[str]], list[object]]] = {
    "import": lambda file, tree, tiny: ["import", file, "--output", "imported"],
    "embed": lambda file, tree, tiny: ["embed", "--checkpoint", file, "--input", tree, "--output", "features.npz"],
    "probe": lambda file, tree, tiny: ["probe", "--checkpoint", file, *tiny],
    "resume": lambda file, tree, tiny: ["fit", *tiny, "--resume", file],
    "ckpt_path": lambda file, tree, tiny: ["fit", *tiny, "--ckpt_path", file],
    "init_from": lambda file, tree, tiny: ["fit", *tiny, "--model.init_from", file],
    "validate": lambda file, tree, tiny: ["validate", *tiny, "--ckpt_path", file],
    "checkpoint": lambda file, tree, tiny: [
        "fit",
        "--config",
        "finetune/imagenet.yaml",
        "--data.root",
        tree,
        "--model.checkpoint",
        file,
        "--trainer.accelerator",
        "cpu",
        "--trainer.max_steps",
        1,
    ],
}
QUICK = ("import", "embed")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", WAYS)
def test_no_way_in(d2v: D2V, tree: Path, tiny: list[str], tmp_path: Path, way: str) -> None:
    if way == "probe":
        tiny = ["--config", "learn/vision_cifar10.yaml", "--data.root", str(tree)]
    place = list(WAYS).index(way)
    # All forms through the quick commands, and a share of them through each that has a recipe to read first.
    for form in FORMS if way in QUICK else FORMS[place :: len(WAYS)][:2]:
        data, wanted = attacks(tmp_path / "canary")[form]
        file = tmp_path / "evil.ckpt"
        WRAPS["zip"](file, data)
        code, _, err = d2v(*WAYS[way](file, tree, tiny))
        assert code == 2, f"{form}: {err}"
        assert str(file) in err
        assert wanted in err, form
        assert "Traceback" not in err
    assert not (tmp_path / "canary").exists()
