"""What is wrong with how a run learns: its updates, its teacher, its targets."""

from d2v import metrics
from d2v.monitoring.faults import limits
from d2v.monitoring.faults.rule import Rule
from d2v.monitoring.faults.view import View
from d2v.verdicts import FIRST_STEPS

LEAST_STEPS_AT_PEAK = 120  # after so many, predictions know something of the targets
LEAST_STEPS = 50
WARMUP_SEEN = 20  # steps: no warm-up is as short
LATEST = 5  # logged steps


def _still_rate(view: View) -> float | None:
    """Largest learning rate so far."""
    return view.largest(metrics.LEARNING_RATE) if view.steps >= 2 * WARMUP_SEEN else None


def _first_rate(view: View) -> float | None:
    """Learning rate at the first logged step, as a share of the peak."""
    settings, rates = view.settings, view.of(metrics.LEARNING_RATE)
    short = settings.total_steps is not None and settings.total_steps < FIRST_STEPS
    if short or settings.first_step > 0 or len(rates) < 2 or rates[0][0] > WARMUP_SEEN or settings.peak_lr == 0:
        return None
    return rates[0][1] / settings.peak_lr


def _growth_from_start(view: View) -> float | None:
    """Of the weights; in thousands of steps they may grow."""
    return view.last(metrics.WEIGHT_GROWTH) if view.steps <= FIRST_STEPS else None


def _growth(view: View) -> float | None:
    """Of the weights over the latest five logged steps."""
    sizes = view.values(metrics.WEIGHT_SIZE)[-LATEST - 1 :]
    return sizes[-1] / max(sizes[0], 1e-12) if len(sizes) > 2 else None


def _moved_per_rate(view: View) -> float | None:
    """Root mean square of a step of the weights, in learning rates; with Adam about as large in all runs."""
    if not view.settings.optimizer.startswith("Adam") or view.settings.freezes or view.steps < LEAST_STEPS:
        return None
    sizes, rates = dict(view.of(metrics.WEIGHT_SIZE)), dict(view.of(metrics.LEARNING_RATE))
    ratios = []
    for step, update in view.of(metrics.UPDATE_SIZE):
        if rates.get(step, 0) > 0 and sizes.get(step):
            ratios.append(update * sizes[step] / rates[step])
    ratios = sorted(ratios[-LATEST:])
    return ratios[len(ratios) // 2] if len(ratios) >= 3 else None


def _cut(view: View) -> float | None:
    """How many times the norm of the gradients is the one that they are clipped to."""
    norm = view.median(metrics.GRAD_NORM, LATEST)
    return norm / view.settings.clip if norm is not None and view.settings.clip else None


def _still_weights(view: View) -> float | None:
    moves = view.settings.peak_lr > 0 and (view.last(metrics.LEARNING_RATE) or 0) > 0
    return view.median(metrics.STILL_FRACTION, LATEST) if moves and not view.settings.freezes else None


def _explained(view: View) -> float | None:
    return view.median(metrics.EXPLAINED, LATEST) if view.at_peak() >= LEAST_STEPS_AT_PEAK else None


def _extractor_rank(view: View) -> float | None:
    """As a share of the highest so far."""
    now, highest = view.median(metrics.EXTRACTOR_RANK, 3), view.largest(metrics.EXTRACTOR_RANK)
    return None if now is None or highest is None else now / highest


_LOWER_RATE = "Lower model.optimizer.lr (now {settings.peak_lr:g}) to a tenth"
_OF_HIGH_RATE = ("learns-nothing", "extractor-collapse", "weights-shrink", "updates-too-small", "collapse")
_TEACHER = "Take model.ema.start near 0.99 in short runs and 0.999 or more in long ones, as the recipes have it"

RULES = [
    Rule(
        "learning-rate-zero",
        _still_rate,
        limits.NO_RATE,
        "the learning rate is 0",
        "train/lr was {value:g} at most in {view.steps:,} steps",
        "Give model.optimizer.lr, such as 1e-3 for a small model, and look at model.schedule",
        of_run=True,
        causes=("weights-still", "updates-too-small", "learns-nothing", "teacher-still", "teacher-too-fast"),
    ),
    Rule(
        "learning-rate-too-high",
        lambda view: view.largest(metrics.UPDATE_SIZE),
        limits.UPDATE,
        "the learning rate is too high",
        "one step changes the weights by {value:.0%} (healthy runs: at most {healthy:.0%})",
        _LOWER_RATE + ", and see that model.schedule.warmup is a tenth of the run",
        of_run=True,
        causes=_OF_HIGH_RATE,
    ),
    Rule(
        "learning-rate-too-high",
        _growth_from_start,
        limits.GROWTH,
        "the learning rate is too high",
        "the weights are {value:.2g} times as large as at the start (healthy runs in their first 200 steps: at most "
        "{healthy:.2g})",
        _LOWER_RATE + ", and see that model.schedule.warmup is a tenth of the run",
        of_run=True,
        causes=_OF_HIGH_RATE,
    ),
    Rule(
        "weights-shrink",
        _growth,
        limits.SHRINKING,
        "the weights shrink",
        "they are {value:.2g} times as large as five logged steps before (healthy runs: at least {healthy:.2g})",
        "Lower model.optimizer.weight_decay (now {settings.weight_decay:g}): the recipes have 0.01 to 0.05",
        of_run=True,
        causes=("learns-nothing", "learning-rate-too-high", "extractor-collapse", "collapse"),
    ),
    Rule(
        "no-warmup",
        _first_rate,
        limits.FIRST_RATE,
        "the learning rate has no warm-up",
        "at the first logged step it is {value:.0%} of its peak (healthy runs: at most {healthy:.0%})",
        "Set model.schedule.warmup to a share of the run: 0.05 to 0.1",
        of_run=True,
    ),
    Rule(
        "weights-still",
        _still_weights,
        limits.STILL,
        "most of the student does not move",
        "{value:.0%} of its weights are the same before and after a step (healthy runs: at most {healthy:.0%})",
        "See that nothing freezes it (requires_grad, model.freeze) and that the optimizer has all of its parameters",
        of_run=True,
        causes=("updates-too-small", "learns-nothing"),
    ),
    Rule(
        "gradients-cut",
        _cut,
        limits.CUT,
        "gradients are clipped to next to nothing",
        "their norm is {value:,.0f} times trainer.gradient_clip_val {settings.clip:g} (healthy runs: at most "
        "{healthy:.1f} times)",
        "Raise trainer.gradient_clip_val to 1 or more, as the recipes have it",
        of_run=True,
        causes=("updates-too-small", "learns-nothing"),
    ),
    Rule(
        "updates-too-small",
        _moved_per_rate,
        limits.SMALL_MOVES,
        "the optimizer hardly moves the weights",
        "a step is {value:.2g} learning rates (healthy runs: at least {healthy:.2g})",
        "Look at model.optimizer: betas (now {settings.betas}) as 0.9 and 0.95 to 0.999, eps 1e-8 to 1e-6; and at "
        "trainer.gradient_clip_val (now {settings.clip})",
        of_run=True,
    ),
    Rule(
        "updates-too-large",
        _moved_per_rate,
        limits.LARGE_MOVES,
        "the optimizer hardly averages gradients",
        "a step is {value:.2g} learning rates (healthy runs: at most {healthy:.2g})",
        "Set model.optimizer.betas (now {settings.betas}) to 0.9 and 0.95 to 0.999",
        of_run=True,
        causes=("learning-rate-too-high", "learns-nothing"),
    ),
    Rule(
        "learns-nothing",
        _explained,
        limits.EXPLAINED,
        "predictions know nothing of their targets",
        "they explain {value:.1%} of the targets' variance (healthy runs after as many steps: at least {healthy:.1%})",
        "Compare with the recipe what you changed: dropout, layer_drop and drop_path of the student, head, masking, "
        "loss; "
        "and look at the data",
    ),
    Rule(
        "teacher-too-fast",
        lambda view: view.median(metrics.TEACHER_RATE),
        limits.FAST_TEACHER,
        "the teacher is hardly an average",
        "it goes {value:.0%} of the way to the student in each step (healthy runs: at most {healthy:.0%}), so that "
        "targets chase the student, which ends in a collapse",
        _TEACHER,
        of_run=True,
    ),
    Rule(
        "teacher-still",
        lambda view: view.largest(metrics.TEACHER_RATE),
        limits.STILL_TEACHER,
        "the teacher does not move",
        "it goes {value:.1g} of the way to the student in a step (recipes: at least {healthy:.1g}), so that targets "
        "stay "
        "those of untrained weights",
        _TEACHER,
        of_run=True,
    ),
    Rule(
        "extractor-collapse",
        _extractor_rank,
        limits.EXTRACTOR,
        "the feature extractor is collapsing",
        "its effective rank has fallen to {value:.0%} of what it was (healthy runs: at least {healthy:.0%})",
        "Let the teacher average the extractor, too: model.shared_with_teacher []; or lower model.optimizer.lr (now "
        "{settings.peak_lr:g})",
        causes=("collapse",),
    ),
    Rule(
        "targets-not-normalised",
        lambda view: view.median(metrics.TARGET_SIZE),
        limits.LARGE_TARGETS,
        "targets are not normalised",
        "values within a target deviate by {value:.2g} (healthy runs: at most {healthy:.2g})",
        "Set model.targets.layer_norm to instance or layer, and mean_norm to layer, as the recipes have it",
    ),
    Rule(
        "targets-not-normalised",
        lambda view: view.median(metrics.TARGET_SIZE),
        limits.SMALL_TARGETS,
        "targets are not normalised",
        "values within a target deviate by {value:.2g} (healthy runs: at least {healthy:.2g})",
        "Set model.targets.layer_norm to instance or layer, and mean_norm to layer, as the recipes have it",
    ),
    Rule(
        "mask-too-small",
        lambda view: view.median(metrics.MASKED_FRACTION),
        limits.LITTLE_MASKED,
        "hardly anything is masked",
        "{value:.1%} of the tokens (recipes: at least {healthy:.0%}): what is hidden can be copied from its neighbours",
        "Set model.masking.mask_ratio: 0.75 for pictures, about 0.5 for speech and text",
    ),
    Rule(
        "mask-too-large",
        lambda view: view.median(metrics.MASKED_FRACTION),
        limits.MUCH_MASKED,
        "nearly everything is masked",
        "{value:.1%} of the tokens (recipes: at most {healthy:.0%}): nothing is left to predict from",
        "Set model.masking.mask_ratio: 0.75 for pictures, about 0.5 for speech and text",
        causes=("learns-nothing",),
    ),
]
