"""What is wrong with a run, from what was logged of it."""

from d2v.monitoring.faults import data_rules, learning_rules, running_rules
from d2v.monitoring.faults.view import View, encoders_of
from d2v.verdicts import History, Verdict

RULES = [*running_rules.RULES, *data_rules.RULES, *learning_rules.RULES]


def find_faults(history: History) -> list[Verdict]:
    """All that is wrong at the last step of a history, but for what another fault brings with it.

    Returns:
        Verdicts; one for each encoder, where a fault is of one.
    """
    found: dict[str, Verdict] = {}
    brought: set[str] = set()
    for encoder in encoders_of(history):
        for rule in RULES:
            verdict = rule.verdict(View(history, encoder))
            if verdict is not None:
                found.setdefault(verdict.fault, verdict)
                brought.update(rule.causes)
    return [verdict for verdict in found.values() if verdict.fault.partition("/")[0] not in brought]
