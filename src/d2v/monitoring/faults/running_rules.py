"""What is wrong with how a run goes: numbers that overflow, a loader that is too slow, probes that say nothing."""

from d2v import metrics
from d2v.monitoring.faults import limits
from d2v.monitoring.faults.rule import Rule
from d2v.monitoring.faults.view import View


def _skipped(view: View) -> float | None:
    """Share of the updates that were skipped."""
    count = view.last(metrics.SKIPPED_UPDATES)
    return None if count is None or view.steps == 0 else count / view.steps


def _skipped_in_fp16(view: View) -> float | None:
    return _skipped(view) if view.settings.precision.startswith("16") else None


def _skipped_otherwise(view: View) -> float | None:
    return None if view.settings.precision.startswith("16") else _skipped(view)


def _untrained_probe(view: View) -> float | None:
    """Accuracy in percent of the untrained encoder: probes begin before the first step."""
    if view.settings.first_step > 0 or view.settings.starts_from:
        return None
    return max((view.values(metric)[0] for metric in _PROBES if view.values(metric)), default=None)


_PROBES = (metrics.KNN_TOP1, metrics.LINEAR_TOP1)

RULES = [
    Rule(
        "fp16-overflow",
        _skipped_in_fp16,
        limits.SKIPPED_FP16,
        "numbers overflow in fp16",
        "{value:.0%} of the updates were skipped, as their gradients were not finite",
        "Set trainer.precision to bf16-mixed, or to 32-true where the device has no bf16",
        of_run=True,
        causes=("learns-nothing",),
    ),
    Rule(
        "not-finite",
        _skipped_otherwise,
        limits.SKIPPED,
        "updates are not finite",
        "{value:.0%} of them were skipped (healthy runs: {healthy:.0%})",
        "Look at the samples that are named above for extreme values, and lower model.optimizer.lr (now "
        "{settings.peak_lr:g})",
        of_run=True,
    ),
    Rule(
        "loader-too-slow",
        lambda view: view.median(metrics.WAIT_FRACTION, 5),
        limits.WAIT,
        "training waits for data",
        "{value:.0%} of the time (healthy runs, which load in the same process: at most {healthy:.0%})",
        "Raise data.num_workers, put the data on a faster disk, or make them smaller; `d2v bench data` shows where "
        "the time "
        "goes",
        of_run=True,
    ),
    Rule(
        "probe-says-nothing",
        _untrained_probe,
        limits.UNTRAINED,
        "the probe tells nothing about what is learned",
        "the untrained encoder reaches {value:.1f}% (healthy runs: at most {healthy:.1f}%): there is one class, or "
        "the labels "
        "show in the inputs (a name or a stamp in the picture, the label in the text), or files of one class differ "
        "in format",
        "Look at what the labels come from: folders, where file names have the classes (give a table: --data.labels "
        "FILE.csv), "
        "or something that is drawn, spoken or written into the inputs",
    ),
]
