"""Classes outside d2v: built where the user allows their package, and never because a file says so."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import arguments, save_checkpoint, vision_encoder

import d2v
from d2v import allowed_packages
from d2v.checkpoints.head_files import restore_head
from d2v.checkpoints.recipe import build_encoder, node
from d2v.cli import main
from d2v.errors import UserError

MODULE = """
import os
import subprocess

from torch import nn

from d2v.model.masking import RandomMasking
from d2v.modalities.vision.front_end import VisionFrontEnd


class Front(VisionFrontEnd):
    pass


class Plain(nn.Module):
    pass


open({canary!r}, "w").close()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``sensors`` that can be imported, and a file that is there once it has been."""
    (tmp_path / "site" / "sensors").mkdir(parents=True)
    canary = tmp_path / "imported"
    (tmp_path / "site" / "sensors" / "__init__.py").write_text("")
    (tmp_path / "site" / "sensors" / "front.py").write_text(MODULE.format(canary=str(canary)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(allowed_packages, "_allowed", set())
    yield canary
    for name in [name for name in sys.modules if name.partition(".")[0] == "sensors"]:
        del sys.modules[name]


def checkpoint(folder: Path, class_path: str = "sensors.front.Front", **entry: Any) -> Path:
    """A checkpoint whose front end is said to be of that class."""
    torch.manual_seed(0)
    encoder = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    path = save_checkpoint(encoder, folder / "a.ckpt", **entry)
    content = torch.load(path, weights_only=True)
    for stored in content["d2v"]["encoders"].values():
        stored["recipe"]["front"]["class_path"] = class_path
    torch.save(content, path)
    return path


def install(site: Path, text: str) -> None:
    """A distribution with entry points, as pip leaves it."""
    folder = site / "sensors-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sensors\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(text)


def test_a_package_that_nobody_allowed_is_not_even_imported(tmp_path: Path, package: Path) -> None:
    path = checkpoint(tmp_path)
    message = r"class_path 'sensors.front.Front': .*package 'sensors'.*--allow sensors .*allow=\['sensors'\]"
    with pytest.raises(UserError, match=message):
        d2v.load(path)
    with pytest.raises(UserError, match=message):
        d2v.load(path, allow=["sensor", "sens"])
    assert not package.exists()


def test_by_argument(tmp_path: Path, package: Path) -> None:
    path = checkpoint(tmp_path)
    encoder = d2v.load(path, allow=["sensors"])
    assert type(encoder.front).__module__ == "sensors.front"
    assert encoder.recipe["front"]["class_path"] == "sensors.front.Front"
    assert d2v.load(path, allow="sensors", layer_drop=0.1, image_size=24).trunk.layer_drop == 0.1
    assert d2v.load(path, allow=(name for name in ["sensors"]), layer_drop=0.2).trunk.layer_drop == 0.2
    with pytest.raises(UserError, match="sensors"):
        d2v.load(path)  # one call allows nothing for the next
    for name in ("sensors.front", "../sensors", "", 3):
        with pytest.raises(UserError, match="give the name of a top-level package"):
            d2v.load(path, allow=[name])  # type: ignore[list-item]


def test_a_head_is_of_a_known_kind_before_it_is_built(package: Path) -> None:
    allowed_packages.allow_packages(["sensors"])
    entry = {"recipe": node("sensors.front.Plain"), "task": "single", "pool": "mean"}
    with pytest.raises(UserError, match="is not a CTCHead or ClassifierHead or TanhHead, which belongs there"):
        restore_head(entry, {}, 16)


@pytest.mark.parametrize(
    ("entry", "trunk"),
    [({"head": 3}, {}), ({"encoders": {}}, {}), ({}, {"drop_path": "x"}), ({}, {"num_heads": 0})],
)
def test_a_damaged_checkpoint_is_bad_input(tmp_path: Path, entry: dict[str, Any], trunk: dict[str, Any]) -> None:
    path = checkpoint(tmp_path, "d2v.modalities.vision.front_end.VisionFrontEnd", **entry)
    content = torch.load(path, weights_only=True)
    for encoder in content["d2v"]["encoders"].values():
        encoder["recipe"]["trunk"].update(trunk)
    torch.save(content, path)
    with pytest.raises(UserError):
        d2v.load(path)


def test_by_flag(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path)
    export = ["export", "--checkpoint", str(path), "--format", "safetensors", "--output"]
    load = ["export", "--checkpoint", str(tmp_path / "folder"), "--format", "hf", "--output", str(tmp_path / "hf")]
    assert main([*export, str(tmp_path / "folder")]) == 0  # which builds nothing
    assert main(load) == 2
    assert "--allow sensors" in capsys.readouterr().err
    assert not package.exists()
    assert main(["--allow", "torch", *load, "--allow=sensors"]) == 2
    assert "sensors.front.Front has no counterpart" in capsys.readouterr().err
    assert package.exists()
    assert main([*load, "--allow"]) == 2
    assert "give the name of a top-level package" in capsys.readouterr().err


def test_by_installing_it(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path)
    install(tmp_path / "site", "[d2v.packages]\nmine = sensors.front\n")
    monkeypatch.chdir(tmp_path)
    assert type(d2v.load(path).front).__module__ == "sensors.front"


@pytest.mark.parametrize("where", ["site", "elsewhere"])
def test_what_lies_beside_the_checkpoint_declares_nothing(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = checkpoint(tmp_path, allow=["sensors"], packages=["sensors"])
    install(tmp_path / where, "[d2v.packages]\nmine = sensors\n")
    monkeypatch.chdir(tmp_path / where)
    monkeypatch.syspath_prepend("")  # as in a notebook or `python -c`
    with pytest.raises(UserError, match="package 'sensors'"):
        d2v.load(path)
    assert not package.exists()


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "subprocess.Popen",
        "sensors.front.os",
        "sensors.front.os.system",
        "sensors.front.subprocess.Popen",
        "sensors.front.nn",
        "sensors.front.RandomMasking",
        "sensors.front.VisionFrontEnd",
        "sensors.front.Plain",
        "sensors.front.open",
        "sensors.front.Nothing",
        "sensors.nowhere.Front",
        "sensors.Front",
        "sensors",
        "sensors..front.Front",
        ".sensors.front.Front",
        "sensorsx.front.Front",
    ],
)
def test_an_allowed_package_allows_its_own_front_ends_only(tmp_path: Path, package: Path, class_path: str) -> None:
    with pytest.raises(UserError, match="class_path"):
        d2v.load(checkpoint(tmp_path, class_path), allow=["sensors"])


def test_a_class_stands_where_it_belongs(package: Path) -> None:
    recipe = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2).recipe
    assert arguments(recipe)["patch_size"] == 4
    for class_path in ("d2v.model.masking.RandomMasking", "d2v.nn.transformer.Transformer", "sensors.front.Plain"):
        with pytest.raises(UserError, match="is not a FrontEnd, which belongs there"):
            build_encoder({**recipe, "front": node(class_path)}, allow=["sensors"])
