"""What was learned about files is kept, and made anew when the file that holds it is damaged."""

import logging
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from d2v.data.file_index import cached_arrays

ARRAYS = {"a": np.arange(400), "b": np.ones((3, 2))}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def kept(tmp_path: Path) -> bytes:
    (path,) = (tmp_path / "d2v").iterdir()
    assert path.name == "things-key.npz"
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
    path, whole = tmp_path / "d2v" / "things-key.npz", kept(tmp_path)
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
    assert "things-key.npz is damaged and is made anew" in caplog.text
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
    assert list((tmp_path / "d2v").iterdir()) == []
