"""Files and folders are there as a whole or not at all; what a killed writer has left does not pile up."""

import os
import signal
import threading
from pathlib import Path

import pytest

from d2v.whole_files import replace_link, whole_file, whole_folder, write_text


def killed_while_writing(path: Path) -> None:
    """A process that is killed when it has written half."""
    child = os.fork()
    if child == 0:
        with whole_file(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_what_a_killed_writer_leaves_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")
    for _ in range(5):
        killed_while_writing(path)
        assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(path, "after")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "after")]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(IsADirectoryError), whole_file(tmp_path / "a.txt") as file:
        file.write(tmp_path.read_bytes())
    with pytest.raises(IsADirectoryError), whole_folder(tmp_path / "folder") as folder:
        folder.write_text("it is a folder")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "before")]


def test_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    """Each in a process of its own; whatever is there is of one of them, as a whole, and nothing else is left."""
    children = []
    for letter in "abcd":
        children.append(os.fork())
        if children[-1] == 0:
            for _ in range(20):
                write_text(tmp_path / "x.txt", letter * 10_000)
            os._exit(0)
    while any(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children[-1:]):
        if (tmp_path / "x.txt").exists():
            content = (tmp_path / "x.txt").read_text()
            assert content == content[0] * 10_000
    for child in children[:-1]:
        assert os.waitpid(child, 0)[1] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_a_folder_has_its_name_when_all_of_it_is_there(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with whole_folder(tmp_path / "new") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "left.txt").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (tmp_path / "new").exists()
    with whole_folder(tmp_path / "new") as folder:
        (folder / "a.txt").write_text("all")
        with whole_folder(tmp_path / "new") as other:  # another process, at the same time
            assert other != folder
            (other / "b.txt").write_text("all")
        (tmp_path / "new" / "b.txt").unlink()
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == ["new", "new/a.txt"]


def test_names_of_any_length_and_pipes_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 120 + ".txt"), "long")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join()
    assert read == ["through"]
    assert pipe.is_fifo()


def test_a_link_leads_to_its_new_target(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        replace_link(tmp_path / "last", tmp_path / name)
        assert (tmp_path / "last").read_text() == name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "last"]
