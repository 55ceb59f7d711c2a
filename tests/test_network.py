"""No import and no command connects to anything, and the guard of all tests would see it."""

import importlib
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import connections
import pytest

import d2v


def test_no_import_connects() -> None:
    """The guard, which conftest.py has set up, sees all that the tests have not imported yet, too."""
    for module in pkgutil.walk_packages(d2v.__path__, "d2v."):
        importlib.import_module(module.name)


def test_another_machine_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes.txt"
    monkeypatch.setenv(connections.NOTES, str(notes))
    with pytest.raises(RuntimeError, match=r"tests must not use the network: socket\.connect of 192\.0\.2\.1"):
        socket.socket().connect(("192.0.2.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, pytest.raises(RuntimeError):
        datagram.sendto(b"", ("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match="getaddrinfo of example"):
        socket.getaddrinfo("example.invalid", 80)
    code = "import socket\ntry: socket.create_connection(('192.0.2.2', 80))\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests must not use the network" in done.stdout, "in a process of its own too"
    assert [line.split()[0] for line in notes.read_text().splitlines()] == [
        "192.0.2.1",
        "192.0.2.1",
        "example.invalid",
        "192.0.2.2",
    ], "also where the error was caught"


def test_this_machine_can() -> None:
    with socket.create_server(("localhost", 0)) as server:
        socket.create_connection(server.getsockname()).close()
