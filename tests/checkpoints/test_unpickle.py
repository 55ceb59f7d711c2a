"""A checkpoint from elsewhere is read without running anything that stands in it."""

import argparse
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from pickle_attacks import as_legacy, as_zip

from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError


class Call:
    """Pickles as a call of a function by its name."""

    def __init__(self, name: str, *args: Any) -> None:
        self.module, self.name = name.rsplit(":", 1)
        self.args = args


def dump(value: Any) -> bytes:
    """Protocol 2 by hand, so that a test can name what cannot be imported here."""
    return b"\x80\x02" + _dump(value) + b"."


def _dump(value: Any) -> bytes:
    if isinstance(value, Call):
        arguments = b"(" + b"".join(map(_dump, value.args)) + b"t"
        return f"c{value.module}\n{value.name}\n".encode() + arguments + b"R"
    if isinstance(value, Built):
        return _dump(value.made) + _dump(value.state) + b"b"
    if isinstance(value, str):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, dict):
        return b"}(" + b"".join(_dump(key) + _dump(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_dump, value)) + b"e"
    if value is None:
        return b"N"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    raise TypeError(value)


class Built:
    """Pickles as an object with a state."""

    def __init__(self, made: Call, state: Any) -> None:
        self.made, self.state = made, state


def attacks(canary: Path) -> dict[str, tuple[Any, str]]:
    """What each wants to call, and what the message must name."""
    touch = f"touch {canary}"
    write = f"open({str(canary)!r}, 'w')"
    attrgetter = Call("operator:attrgetter", "__class__.__base__.__subclasses__")
    return {
        "os.system": (Call("os:system", touch), "os.system"),
        "posix.system": (Call("posix:system", touch), "posix.system"),
        "eval": (Call("builtins:eval", write), "eval"),
        "exec of Python 2's name": (Call("__builtin__:exec", write), "exec"),
        "getattr": (Call("builtins:getattr", Call("importlib:import_module", "os"), "system"), "getattr"),
        "Popen": (Call("subprocess:Popen", ["touch", str(canary)]), "subprocess.Popen"),
        "importlib": (Call("importlib:import_module", "antigravity"), "importlib.import_module"),
        "attrgetter": (attrgetter, "operator.attrgetter"),
        "nested in a Namespace": (Built(Call("argparse:Namespace"), {"x": Call("os:system", touch)}), "os.system"),
        "argument of a stand-in": (Call("argparse:Namespace", Call("os:system", touch)), "os.system"),
        "attribute of a Namespace": (
            Call("argparse:Namespace.__init__.__globals__", "os"),
            "argparse.Namespace.__init__",
        ),
        "torch.load": (Call("torch.serialization:load", str(canary)), "torch.serialization.load"),
        "torch.hub": (Call("torch.hub:load", "someone/repository", "model"), "torch.hub.load"),
        "torch's compiler": (Call("torch._inductor.codecache:PyCodeCache.load", write), "torch._inductor"),
        "torch's import helper": (
            Call("torch._utils:_import_dotted_name", "os.system"),
            "torch._utils._import_dotted_name",
        ),
        "numpy.load": (Call("numpy:load", str(canary)), "numpy.load"),
        "numpy's exec": (
            Call("numpy.testing._private.utils:runstring", write, {}),
            "numpy.testing._private.utils.runstring",
        ),
        "codecs": (Call("codecs:decode", write, "unicode_escape"), "codecs.decode"),
        "pickle in a pickle": (Call("pickle:loads", "x"), "loads"),
        "pathlib": (Call("pathlib:Path.touch", str(canary)), "pathlib.Path.touch"),
        "our own": (Call("d2v.checkpoints.recipe:build", {}), "d2v.checkpoints.recipe.build"),
    }


ATTACKS = list(attacks(Path("canary")))


@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name(tmp_path: Path, name: str, wrap: Any) -> None:
    canary, path = tmp_path / "canary", tmp_path / "checkpoint.pt"
    content, wanted = attacks(canary)[name]
    wrap(path, dump({"model": {}, "args": content}))
    with pytest.raises(UserError, match="refused, because loading it would use") as refusal:
        load_untrusted(path)
    assert wanted in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert not canary.exists()


def test_the_attacks_would_work_on_a_plain_unpickler(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(dump({"args": Call("os:system", f"touch {canary}")}))
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_newer_protocols_run_nothing(tmp_path: Path, protocol: int) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    for wrap in (as_zip, as_legacy):
        wrap(tmp_path / "checkpoint.pt", pickle.dumps({"model": Attack()}, protocol))
        with pytest.raises(UserError):
            load_untrusted(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "canary").exists()


def test_a_state_cannot_give_a_stand_in_a_method(tmp_path: Path) -> None:
    # The second state would go to what the first one put in the place of __setstate__.
    once = Built(Call("argparse:Namespace"), {"__setstate__": None, "__class__": None, "x": 1})
    as_zip(tmp_path / "checkpoint.pt", dump({"args": Built(once, {"y": 2})}))
    assert load_untrusted(tmp_path / "checkpoint.pt") == {"args": {"y": 2}}


def test_tar_and_other_files_are_refused(tmp_path: Path) -> None:
    tar = tmp_path / "legacy.tar"
    with tarfile.open(tar, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = dump({"x": Call("os:system", f"touch {tmp_path / 'canary'}")})
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    empty = tmp_path / "empty.pt"
    empty.touch()
    whole = tmp_path / "whole.pt"
    torch.save({"model": torch.randn(100)}, whole)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole.read_bytes()[:-200])
    for path in (tar, text, empty, cut):
        with pytest.raises(UserError, match=f"{path}: not a readable torch checkpoint"):
            load_untrusted(path)
    with pytest.raises(UserError, match="no such file"):
        load_untrusted(tmp_path / "absent.pt")
    torch.save([1, 2], whole)
    with pytest.raises(UserError, match="holds a list"):
        load_untrusted(whole)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_real_namespace_gives_its_attributes(tmp_path: Path, zipped: bool) -> None:
    args = argparse.Namespace(
        target_layers="[6,7]", window_size=(14, 14), nested=argparse.Namespace(lr=1e-3), device=None
    )
    weight = torch.randn(2, 3)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"w": weight}, "args": args, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    content = load_untrusted(path)
    assert content["args"] == {
        "target_layers": "[6,7]",
        "window_size": (14, 14),
        "nested": {"lr": 1e-3},
        "device": None,
    }
    assert content["epoch"] == 3
    torch.testing.assert_close(content["model"]["w"], weight)


def test_numpy_numbers_give_their_value(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    values = {
        "best": numpy.float64(0.25),
        "steps": numpy.int64(7),
        "small": numpy.float32(0.5),
        "on": numpy.bool_(True),
    }
    torch.save({"extra_state": values, "model": {}}, path)
    assert load_untrusted(path)["extra_state"] == {"best": 0.25, "steps": 7, "small": 0.5, "on": True}


def test_omegaconf_and_enums_need_no_omegaconf(tmp_path: Path) -> None:
    def leaf(value: Any) -> Built:
        return Built(Call("omegaconf.nodes:AnyNode"), {"_val": value, "_parent": None})

    layers = Built(Call("omegaconf.listconfig:ListConfig"), {"_content": [leaf(1), leaf(2)]})
    metadata = Built(Call("omegaconf.base:ContainerMetadata"), {"resolver_cache": Call("collections:defaultdict")})
    config = Built(
        Call("omegaconf.dictconfig:DictConfig"),
        {"_metadata": metadata, "_content": {"depth": leaf(12), "layers": layers, "none": leaf(None)}},
    )
    enum = Call("examples.data2vec.data.modality:Modality", 2)
    as_zip(tmp_path / "checkpoint.pt", dump({"cfg": config, "modality": enum}))
    content = load_untrusted(tmp_path / "checkpoint.pt")
    assert content == {"cfg": {"depth": 12, "layers": [1, 2], "none": None}, "modality": 2}
