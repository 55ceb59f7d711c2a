"""What failed, in one line: the cause that an error hides in a chain of errors or behind its own first line."""

_LONGEST = 500
_HIDE_THEIR_CAUSE = ("iter(combined_loader)", "exited unexpectedly")
"""Words of Lightning's error after a loader could not start, and of torch's after a loading process died."""

_HINTS = {
    ("out of memory",): "lower data.batch_size; data.global_batch_size keeps the optimizer step as it is",
    ("shared memory", "/dev/shm", "bus error", "</torch_", "(shm)"): (
        "the loading processes hand over batches in shared memory, and /dev/shm is too small for them (or an .arrow "
        "file became shorter while it was read): set data.num_workers 0, or enlarge it, in Docker with --shm-size 8g"
    ),
    ("killed by signal: killed",): (
        "signal 9 ended a loading process, most likely because the system was out of memory: lower data.num_workers "
        "or data.batch_size; --resume goes on from the last checkpoint"
    ),
}  # fmt: skip
"""What to try, by words of the message."""


def cause_of(error: BaseException) -> BaseException:
    """The error that says what happened."""
    while any(words in str(error) for words in _HIDE_THEIR_CAUSE):
        behind = error.__cause__ or error.__context__
        if behind is None:
            break
        error = behind
    return error


def message_of(error: BaseException) -> str:
    """The text of an error, without the traceback that one of another process carries in it."""
    text = str(error).strip() or type(error).__name__
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    if not frames or "Traceback (most recent call last)" not in text:
        return text
    for number in range(frames[-1] + 1, len(lines)):
        if not lines[number].startswith(" "):
            return "\n".join(lines[number:]).strip()
    return text


def in_one_line(text: str) -> str:
    """The first line of a message; with the others where that is no more than a heading or ends in the middle."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    for further in lines[1:]:
        if not line.endswith((":", ",", ";")) and not further.startswith("while reading "):
            break
        line += f" {further}"
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def hints_for(text: str) -> list[str]:
    """What to try."""
    hints = []
    for words, hint in _HINTS.items():
        if any(word in text.lower() for word in words):
            hints.append(hint)
    return hints
