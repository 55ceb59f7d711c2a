"""The user's cache: kept, made anew when damaged, bounded, shown and cleared, and never taken from who uses it."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from command_line import D2V, d2v  # noqa: F401  (a fixture)

from d2v.data import user_cache
from d2v.data.sources import stores
from d2v.data.user_cache import cached_arrays, entry_path, hold

ARRAYS = {"a": np.arange(400), "b": np.ones((3, 2))}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def kept(tmp_path: Path) -> bytes:
    (path,) = (tmp_path / "d2v" / "things").iterdir()
    assert path.name == "key.npz"
    return path.read_bytes()


def test_arrays_are_computed_once_and_renewed(tmp_path: Path) -> None:
    made: list[int] = []

    def get(renew: object = None) -> dict[str, np.ndarray]:
        return cached_arrays("things", "key", lambda: made.append(1) or ARRAYS, renew)  # type: ignore[func-returns-value]

    for _ in range(2):
        assert all(np.array_equal(value, ARRAYS[name]) for name, value in get().items())
    assert made == [1]
    content = kept(tmp_path)
    get(lambda arrays: arrays)
    assert kept(tmp_path) == content
    assert get(lambda arrays: {**arrays, "b": np.zeros(1)})["b"].tolist() == [0]
    assert get()["b"].tolist() == [0]
    assert made == [1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "renamed"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cached_arrays("things", "key", lambda: ARRAYS)
    path, whole = tmp_path / "d2v" / "things" / "key.npz", kept(tmp_path)
    middle = len(whole) // 4
    damaged = {
        "cut": whole[: len(whole) // 2],  # zipfile.BadZipFile
        "flipped": whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 40]) + whole[middle + 40 :],
        "empty": b"",
        "text": b"not a zip file",
        "renamed": whole.replace(b"a.npy", b"\xff\xff\xff\xff\xff", 1),
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        found = cached_arrays("things", "key", lambda: ARRAYS)
    assert all(np.array_equal(value, ARRAYS[name]) for name, value in found.items())
    assert "key.npz is damaged and is made anew" in caplog.text
    assert len(kept(tmp_path)) == len(whole)


@pytest.mark.parametrize("error", [OSError("No space left"), KeyboardInterrupt()])
def test_an_unfinished_file_is_removed(tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: BinaryIO, **_: np.ndarray) -> None:
        file.write(b"the first half")
        raise error

    monkeypatch.setattr("numpy.savez", fail)
    if isinstance(error, OSError):
        assert cached_arrays("things", "key", lambda: ARRAYS) is ARRAYS
    else:
        with pytest.raises(KeyboardInterrupt):
            cached_arrays("things", "key", lambda: ARRAYS)
    assert list((tmp_path / "d2v" / "things").iterdir()) == []


def make_folder(name: str, size: int = 1000, age: float = 0.0) -> Path:
    """An entry that is a folder, last used so many days ago."""
    folder = entry_path("text-shards", name)
    folder.mkdir(parents=True)
    (folder / "train-00000.bin").write_bytes(bytes(size))
    used = time.time() - age * 86400
    os.utime(folder, (used, used))
    return folder


def process_that_holds(folder: Path) -> "subprocess.Popen[str]":
    code = "import sys, pathlib, d2v.data.user_cache as c; c.hold(pathlib.Path(sys.argv[1])); print(1); input()"
    words = [sys.executable, "-uc", code, str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    return process


def test_what_was_not_used_for_longest_goes_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    oldest, older, young = (make_folder(f"{age}", 4000, age) for age in (30, 20, 10))
    monkeypatch.setenv(user_cache.SIZE, "9e-6")
    cached_arrays("things", "small", lambda: {"a": np.zeros(1)})
    assert not oldest.exists()
    assert older.exists()
    assert re.search(r"removed \S+, used 30 days ago \(at most 9e-06 GB are kept; D2V_CACHE_GB sets", caplog.text)
    used = time.time() - 15 * 86400
    os.utime(entry_path("things", "small.npz"), (used, used))
    cached_arrays("things", "small", dict)  # used now
    cached_arrays("things", "large", lambda: {"a": np.zeros(500)})
    assert not older.exists()
    assert entry_path("things", "small.npz").exists()
    monkeypatch.setenv(user_cache.SIZE, "0")
    cached_arrays("things", "larger", lambda: {"a": np.zeros(5000)})
    assert not young.exists()
    assert [entry.path.name for entry in user_cache.entries()] == ["larger.npz"], "who made it is going to use it"


def test_what_a_process_uses_stays_until_it_ends_or_is_killed(d2v: D2V) -> None:  # noqa: F811
    folder, other = make_folder("used", age=3), make_folder("other")
    first, second = process_that_holds(folder), process_that_holds(folder)
    try:
        assert d2v("cache", "clear") == (
            0,
            "freed 1.0 kB: 1 entries removed\n",
            "kept text-shards used: a running process uses it\n",
        )
        assert folder.exists()
        assert not other.exists()
        first.kill()
        first.wait()
        assert "a running process" in d2v("cache", "clear")[2]
        second.kill()
        second.wait()
        code, out, err = d2v("cache", "clear", "text-shards")
        assert (code, err) == (0, "")
        assert "1 entries removed" in out
        assert not folder.exists()
    finally:
        first.kill()
        second.kill()
    assert user_cache.entries() == []


def test_a_process_holds_its_folder_again_after_all_was_removed_by_hand(tmp_path: Path) -> None:
    folder = make_folder("x")
    for _ in range(2):
        hold(folder)
        (entry,) = user_cache.entries()
        assert not user_cache.remove(entry)
        subprocess.run(["rm", "-rf", tmp_path / "d2v"], check=True)
        folder.mkdir(parents=True)


def test_the_table_and_what_is_cleared_of_it(d2v: D2V, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    make_folder("old", 2_000_000, age=40)
    cached_arrays("sound-headers", "abc", lambda: ARRAYS, made_of="/data/My Library/")
    code, out, _ = d2v("cache")
    assert code == 0
    lines = out.splitlines()
    assert re.fullmatch(r"KIND +WHAT +SIZE +LAST USED", lines[0])
    assert re.fullmatch(r"sound-headers +My_Library-abc +3\.\d kB +just now", lines[1])
    assert re.fullmatch(r"text-shards +old +2\.0 MB +40 days ago", lines[2])
    assert lines[3].startswith("2 entries, 2.0 MB of at most 20 GB (D2V_CACHE_GB), in ")
    assert "0 entries removed" in d2v("cache", "clear", "text-shards", "--unused_for", "50")[1]
    assert "1 entries removed" in d2v("cache", "clear", "--unused_for", "30")[1]
    assert [entry.kind for entry in user_cache.entries()] == ["sound-headers"]
    assert d2v("cache", "clear", "nothing")[0] == 2
    monkeypatch.setenv(user_cache.SIZE, "much")
    code, _, err = d2v("cache")
    assert code == 2
    assert "D2V_CACHE_GB is much: give the largest size" in err


def test_the_help_names_every_kind() -> None:
    from d2v.commands.cache import KINDS

    source = "".join(path.read_text() for path in (Path(user_cache.__file__).parents[1]).rglob("*.py"))
    named = re.findall(r'(?:cached_arrays|entry_path)\(\s*"([^"]+)"', source)
    assert {*named, stores._LISTS, stores._FETCHED} == set(KINDS)
