"""The one progress bar for long work: redrawn in a terminal; in a pipe or a log file, a line every so many seconds."""

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20
_OF_KNOWN_LENGTH = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f}%), {rate_fmt}, {remaining} left{postfix}"
_OF_UNKNOWN_LENGTH = "{desc}: {n_fmt} in {elapsed}, {rate_fmt}{postfix}"


class Progress(tqdm):
    """``tqdm`` for people who read the log later: work that is done before the first line is due prints nothing.

    Args:
        args: As ``tqdm`` takes them.
        kwargs: Likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_lines = not _is_redrawn(kwargs.get("file") or sys.stderr)
        if self._in_lines:
            every = SECONDS_BETWEEN_LINES
            kwargs |= {"delay": every, "mininterval": every, "maxinterval": every, "leave": False}
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if not self._in_lines:
            return super().display(msg, pos)
        self.bar_format = _OF_KNOWN_LENGTH if self.total else _OF_UNKNOWN_LENGTH
        print(self, file=self.fp, flush=True)
        return True

    def close(self) -> None:
        if self._in_lines and not self.disable:
            self.last_print_t = 0  # nothing was drawn, and tqdm has nothing to wipe out
        super().close()

    def clear(self, *args: Any, **kwargs: Any) -> None:
        if not self._in_lines:
            super().clear(*args, **kwargs)


def _is_redrawn(stream: Any) -> bool:
    """A terminal, or the output of a notebook."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel.")
