"""Hides messages of Lightning that a user of d2v need not read."""

import logging
import warnings

_usual = warnings.formatwarning


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    if issubclass(category, UserWarning):
        return f"warning: {message}\n"  # without our lines of code
    return _usual(message, category, filename, lineno, line)


def quieten() -> None:
    """Hide advice that does not apply to d2v, and messages that repeat what d2v prints itself."""
    for message in (
        ".*does not have many workers.*",  # data.num_workers is chosen with care
        ".*exists and is not empty.*",  # the run's folder: it holds config.yaml
        ".*module.s. in eval mode at the start of training.*",  # the teacher
        ".*LightningCLI's args parameter is intended.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
        ".*The dirpath has changed.*",  # a resumed run has a folder of its own
        ".*callbacks used to create the checkpoint need to be provided.*",  # the config given wins
        ".*number of training batches.*smaller than the logging interval.*",  # epochs are not the unit of a run
    ):
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = _plain
    hidden = (
        "💡", "GPU available", "TPU available", "HPU available", "Seed set to", "LOCAL_RANK:", "Using bfloat16",
        "Using 16bit", "`Trainer.fit` stopped", "Restoring states", "Restored all states", "Loaded model weights",
        "Loading `train_dataloader`", "`weights_only` was not set", "Running in `fast_dev_run`",
        "Detected KeyboardInterrupt", "\nDetected KeyboardInterrupt",
    )  # fmt: skip
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logger = logging.getLogger(name)
        if not logger.filters:
            logger.addFilter(lambda record: not record.getMessage().startswith(hidden))
