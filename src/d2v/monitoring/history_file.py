"""The history of a run in its folder, as :class:`d2v.monitoring.run_history.RunHistory` writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HISTORY, SKIPPED = "history.jsonl", "skipped.txt"


def read_history(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, oldest first; half a line, which a killed process left, is no event."""
    path = run_dir / HISTORY
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield event
