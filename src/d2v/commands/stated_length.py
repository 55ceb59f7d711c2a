"""Two keys can say how long a run is, and two when it validates: the one that is stated last holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d2v.configs import read_config

# Ours, and Lightning's of the section `trainer`.
_RIVALS = {
    "length": ("max_steps", "max_epochs", "max_time"),
    "validate_every": ("val_check_interval", "check_val_every_n_epoch"),
}


def settle(config: Any, words: Iterable[str]) -> None:
    """Set to null whichever of :data:`_RIVALS` is overruled; a config with both means ours.

    Args:
        config: All values of a command.
        words: Its command line, with configs by their paths.
    """
    for ours, theirs in _RIVALS.items():
        if _last_stated(ours, theirs, words) == "trainer":
            config[ours] = None
    if config.length is not None:
        config.trainer.max_steps = config.trainer.max_epochs = -1
        config.trainer.max_time = None
    if config.validate_every is not None:
        config.trainer.val_check_interval, config.trainer.check_val_every_n_epoch = None, 1


def _last_stated(ours: str, theirs: tuple[str, ...], words: Iterable[str]) -> str | None:
    last = None
    words = list(words)
    for number, word in enumerate(words):
        option, _, value = word.removeprefix("--").partition("=")
        if option == "config":
            content = read_config(Path(value or words[number + 1]))
            trainer = content.get("trainer") or {}
            if content.get(ours) is not None:
                last = ours
            elif any(trainer.get(key) is not None for key in theirs):
                last = "trainer"
        elif option == ours:
            last = ours
        elif option.removeprefix("trainer.") in theirs:
            last = "trainer"
    return last
