"""Two keys can say how long a run is, and two when it validates: whichever is stated last holds."""

from collections.abc import Sequence
from typing import Any

from d2v.commands.stacked_configs import content_of
from d2v.configs import options

# Ours, and Lightning's of the section `trainer`.
_RIVALS = {
    "length": ("max_steps", "max_epochs", "max_time"),
    "validate_every": ("val_check_interval", "check_val_every_n_epoch"),
}


def settle(config: Any, words: Sequence[str]) -> None:
    """Overrule one of each two; of a config with both, Lightning's is overruled.

    Args:
        config: All values of a command.
        words: Its command line, with configs by their paths.
    """
    stated: set[str] = set()
    for ours, theirs in _RIVALS.items():
        last = ours
        for option, value in options(words):
            name = option.removeprefix("--trainer.")
            if option == "--config":
                content = content_of(value)
                trainer = content.get("trainer") or {}
                stated |= trainer.keys()
                if any(trainer.get(key) is not None for key in theirs):
                    last = "trainer"
                if content.get(ours) is not None:
                    last = ours
            elif option == f"--{ours}":
                last = ours
            elif name in theirs:
                stated.add(name)
                last = "trainer"
        if last != ours:
            config[ours] = None
    if config.length is not None:
        config.trainer.max_steps = config.trainer.max_epochs = -1
        config.trainer.max_time = None
    if config.validate_every is not None:
        config.trainer.val_check_interval, config.trainer.check_val_every_n_epoch = None, 1
    elif isinstance(config.trainer.val_check_interval, int) and "check_val_every_n_epoch" not in stated:
        config.trainer.check_val_every_n_epoch = None  # so that batches are counted over epochs, however few one has
