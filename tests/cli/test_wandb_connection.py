"""A run asks whether Weights & Biases answers; nothing here leaves this machine."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socket import socket
from threading import Thread

import pytest
from jsonargparse import Namespace

from d2v.commands import wandb_connection
from d2v.commands.run_folder import direct_logger
from d2v.commands.wandb_connection import why_offline


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of somebody who takes a call and never answers."""
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_any_answer_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # it answers 501 to everything
    Thread(target=server.handle_request).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    assert why_offline() is None
    server.server_close()


def test_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    monkeypatch.setattr(wandb_connection, "SECONDS", 0.2)
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    start = time.perf_counter()
    assert why_offline() == f"{silent} does not answer"
    assert time.perf_counter() - start < 10
    monkeypatch.setenv("WANDB_MODE", "online")  # whoever says so gets it
    assert why_offline() is None


def test_the_logger_then_stays_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # refuses at once
    monkeypatch.setenv("WANDB_SILENT", "false")
    logger = Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(offline=False))
    direct_logger(logger, tmp_path)
    assert logger.init_args.offline
    assert logger.init_args.save_dir == str(tmp_path)
