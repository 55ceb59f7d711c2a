"""The folder of a demo: d2v replaces what it made there itself, and nothing else."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d2v.errors import UserError
from d2v.whole_files import write_text

_MARKER, _LOCK = "demo.json", ".lock"


@dataclass(frozen=True)
class DemoSummary:
    """What a finished folder holds; printed, it is the line that `d2v prepare demo` shows."""

    root: Path
    created: bool
    """False if it was there already."""
    found: dict[str, Any]
    """Numbers of samples and the like, by name."""
    text: str
    """The same in words."""

    def __str__(self) -> str:
        state = "written to" if self.created else "already in"
        return f"{self.text}: {state} {self.root}"


class DemoFolder:
    """A folder with a note of what it is made from and, when it is finished, of what it holds.

    Args:
        root: The folder.
        kind: Which demo: "vision", "speech", "text" or "joint".
        wanted: What its files depend on, as plain values.
        folders: The folders and files below the root that hold the data; nothing else is ever removed or written over.

    Raises:
        UserError: The folder holds something else, another demo for instance.
    """

    def __init__(self, root: str | Path, kind: str, wanted: Mapping[str, Any], folders: Sequence[str]) -> None:
        self.root = Path(root).expanduser()
        self._kind, self._wanted, self._folders = kind, json.loads(json.dumps(wanted)), folders
        self._lock = FileLock(self.root / _LOCK)
        is_used = self.root.exists() and not self.root.is_dir()
        if self.root.is_dir():
            is_used = any(not path.name.startswith(".") for path in self.root.iterdir())
        if is_used and not self._stored():
            raise UserError(f"{self.root} exists and is no demo data of {kind}. Choose a new or an empty folder.")

    def finished(self) -> dict[str, Any] | None:
        """What it holds, if it is finished, is what is wanted, and has all its files; else None."""
        stored = self._stored()
        found = stored.get("found")
        if found is None or stored.get("wanted") != self._wanted or found["files"] != self._num_files():
            return None
        return found

    def clear(self) -> None:
        """Make the folder, or remove the data in it.

        Raises:
            UserError: Another process is making it, or has just done so.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            self._lock.acquire(timeout=0)
        if not self._lock.is_locked or self.finished() is not None:
            raise UserError(f"{self.root}: another process is making it; wait until it ends")
        self._write_marker(None)
        for name in self._folders:
            shutil.rmtree(self.root / name, ignore_errors=True)

    def finish(self, found: dict[str, Any]) -> dict[str, Any]:
        """Note what it holds (plain values) and how many files there are."""
        found = {**found, "files": self._num_files()}
        self._write_marker(found)
        self._lock.release()
        return found

    def _stored(self) -> dict[str, Any]:
        """The note; empty if there is none of this demo."""
        try:
            stored = json.loads((self.root / _MARKER).read_bytes())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) and stored.get("demo") == self._kind else {}

    def _num_files(self) -> int:
        count = 0
        for name in self._folders:
            for path in (self.root / name, *(self.root / name).rglob("*")):
                count += path.is_file()
        return count

    def _write_marker(self, found: dict[str, Any] | None) -> None:
        write_text(self.root / _MARKER, json.dumps({"demo": self._kind, "wanted": self._wanted, "found": found}))
