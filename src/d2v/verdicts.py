"""What a monitor of a run reads, and what it says."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

FIRST_STEPS = 200
"""Most of what can be wrong shows in these."""

FILE = "verdicts.jsonl"
"""In a run's folder: a verdict a line."""


@dataclass(frozen=True)
class Verdict:
    """One fault of a run."""

    step: int
    fault: str
    """Its short name, and behind a slash the encoder that has it, where encoders have names."""
    what: str
    """What is wrong, in a few words."""
    why: str
    """The logged numbers that show it."""
    cure: str
    """What to change."""

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.what}: {self.why}. {self.cure}"

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """What a run was told, as far as verdicts depend on it; its config is logged, too."""

    first_step: int = 0
    """Optimizer steps that were done before; 0: it starts from the beginning."""
    total_steps: int | None = None
    peak_lr: float = 0.0
    optimizer: str = ""
    betas: tuple[float, ...] = ()
    weight_decay: float = 0.0
    clip: float | None = None
    """Norm that gradients are clipped to."""
    precision: str = "32-true"
    freezes: bool = False
    """Whether it was told to leave parts as they are."""
    starts_from: str | None = None
    """Checkpoint whose weights it starts from."""


@dataclass
class History:
    """Values by the names of ``metrics.py``, of the optimizer steps that were logged, in their order."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    settings: Settings = Settings()

    @property
    def step(self) -> int:
        """The last one."""
        return self.rows[-1][0] if self.rows else 0

    def of(self, metric: str) -> list[tuple[int, float]]:
        """Steps and values of a metric, where it was logged."""
        return [(step, row[metric]) for step, row in self.rows if metric in row]

    def values(self, metric: str) -> list[float]:
        return [value for _, value in self.of(metric)]


Judge = Callable[[History], Sequence[Verdict]]
"""Finds all faults that a history shows at its last step."""
