"""What all tests share: no network, and one thread each, so that those that run side by side are not slowed down."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parent / "no_network"))
import connections
import shape_checks

connections.install()
# Of the processes that tests start. W&B's own program is not Python, and is told not to.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[1], os.environ.get("PYTHONPATH"))))
os.environ["WANDB_MODE"] = "offline"

shape_checks.install()
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What d2v learns about files of tests is nothing that the user's cache should keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    notes = tmp_path_factory.mktemp("connections") / "notes.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(connections.NOTES, str(notes))
        yield
    assert not notes.exists(), f"tests must not use the network: {notes.read_text()}"
