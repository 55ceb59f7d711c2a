"""A linear classifier on frozen features: multinomial logistic regression, solved to the optimum.

Nothing is tuned by hand and nothing is random: the features are standardised, L-BFGS finds the one minimum, and the
strength of the L2 penalty is chosen on a held-out tenth of the training samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from d2v.evaluation.frozen import LabelledFeatures

L2_GRID = (1e-1, 1e-2, 1e-3)
"""Penalties to choose from, strongest first, so that each solution is a start for the next.

This is the range that the usual protocols amount to: MAE's (batch norm, then SGD) and SGD on raw features reach with an
untrained encoder what these penalties do. Weaker ones amplify directions with next to no variance, in which even an
untrained encoder still carries the pixels; see ``UNPENALISED``."""
UNPENALISED = 1e-6
"""A penalty that hardly restrains: what is in the features at all, however faint (benchmarks/README.md has both)."""
_CHUNK_NUMBERS = 2**25
"""Logits held at once: 128 MiB in fp32."""


@dataclass(frozen=True)
class LinearProbe:
    """Accuracies in percent on the validation samples, and the penalty that was chosen."""

    top1: float
    top5: float | None
    """None below six classes."""
    l2: float


def linear_probe(
    train: LabelledFeatures,
    val: LabelledFeatures,
    device: torch.device | str = "cpu",
    l2_grid: Sequence[float] = L2_GRID,
) -> LinearProbe:
    """Fit on the training samples, report on the validation samples; the latter have no say in the penalty.

    Args:
        train: Features to fit on.
        val: Features to report on.
        device: Where to compute; the features are moved there whole.
        l2_grid: Penalties to choose from, strongest first.
    """
    if torch.device(device).type == "mps":
        device = "cpu"  # Apple's GPUs have no double precision
    num_classes = 1 + max(int(train.labels.max()), int(val.labels.max()))
    mean, scale = _standardisation(train.features)
    x = ((train.features - mean) * scale).to(device)
    y = train.labels.to(device)

    # A fixed permutation of our own generator: the caller's random state stays as it is.
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, rest = order[: len(y) // 10], order[len(y) // 10 :]
    l2, start = l2_grid[0], None
    if len(l2_grid) > 1 and len(held_out) > 0:
        problem = SoftmaxRegression(x[rest], y[rest], num_classes)
        best, weights = -1.0, None
        for candidate in l2_grid:
            weights = problem.solve(candidate, weights)
            accuracy = _top_k(logits_of(x[held_out], weights), y[held_out], 1)
            if accuracy > best:  # on a tie the stronger penalty stays
                best, l2, start = accuracy, candidate, weights

    problem = SoftmaxRegression(x, y, num_classes)
    weights = problem.solve(l2, start)
    logits = logits_of(((val.features - mean) * scale).to(device), weights)
    labels = val.labels.to(device)
    top5 = None
    if num_classes > 5:
        top5 = _top_k(logits, labels, 5)
    return LinearProbe(_top_k(logits, labels, 1), top5, l2)


class SoftmaxRegression:
    """Minimises mean cross-entropy + l2 / 2 * squared norm of the weights; the biases are free.

    It is scikit-learn's ``LogisticRegression(C=1 / (l2 * n))``. L-BFGS runs on preconditioned weights: along each
    principal axis of the features, with variance s, the curvature is about s + l2, and dividing by its root makes all
    axes alike. The minimum is the same, and it is reached in some twenty steps instead of hundreds.

    Args:
        x: Centred features.
        y: Their classes.
        num_classes: C.
    """

    def __init__(self, x: Float[Tensor, "n d"], y: Int64[Tensor, "n"], num_classes: int) -> None:
        covariance = (x.T @ x).double() / len(x)
        variances, axes = torch.linalg.eigh(covariance.cpu())
        self.variances = variances.clamp(min=0).to(x)  # [D]
        self.axes = axes.to(x)  # [D, D]
        self.x = x @ self.axes
        self.y = y
        self.num_classes = num_classes

    def solve(self, l2: float, start: Float[Tensor, "d1 c"] | None = None) -> Float[Tensor, "d1 c"]:
        """The weights, [D, C], and below them the biases, [1, C].

        Args:
            l2: Penalty, above 0.
            start: Where to begin, such as the solution for another penalty; None: zero.
        """
        scale = torch.ones(len(self.variances) + 1, 1).to(self.x)  # last row: biases
        scale[:-1, 0] = (self.variances + l2).rsqrt()
        variable = torch.zeros(len(scale), self.num_classes).to(self.x)
        if start is not None:
            variable = torch.cat([self.axes.T @ start[:-1], start[-1:]]) / scale
        optimizer = torch.optim.LBFGS(
            [variable],
            max_iter=200,
            history_size=20,
            tolerance_grad=1e-6,
            tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:  # two lines of calculus in place of autograd, whose graph would not fit into memory
            loss, gradient = self._objective(variable * scale, l2)
            variable.grad = gradient * scale
            return loss

        optimizer.step(closure)
        solution = variable * scale
        return torch.cat([self.axes @ solution[:-1], solution[-1:]])

    def _objective(self, weights: Float[Tensor, "d1 c"], l2: float) -> tuple[Tensor, Tensor]:
        """Loss, and its gradient with regard to the weights in the principal axes."""
        loss = torch.zeros((), dtype=torch.float64).to(self.x.device)
        gradient = torch.zeros_like(weights)
        rows = max(1, _CHUNK_NUMBERS // self.num_classes)
        for x, y in zip(self.x.split(rows), self.y.split(rows), strict=True):
            log_p = (weights[-1] + x @ weights[:-1]).log_softmax(dim=1)  # [n, C]
            loss -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
            error = log_p.exp_().scatter_add_(1, y[:, None], torch.full_like(log_p[:, :1], -1.0))
            gradient[:-1] += x.T @ error
            gradient[-1] += error.sum(dim=0)
        gradient /= len(self.y)
        gradient[:-1] += l2 * weights[:-1]
        return loss / len(self.y) + l2 / 2 * weights[:-1].double().square().sum(), gradient


def logits_of(x: Float[Tensor, "q d"], weights: Float[Tensor, "d1 c"]) -> Float[Tensor, "q c"]:
    """Scores of the classes, with weights as :meth:`SoftmaxRegression.solve` returns them."""
    return weights[-1] + x @ weights[:-1]


def _standardisation(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Mean, and one over the deviation; 0 where a feature is constant but for rounding."""
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    return mean, torch.where(deviation > 1e-6 * mean.abs(), 1 / deviation, 0.0)


def _top_k(logits: Float[Tensor, "q c"], labels: Int64[Tensor, "q"], k: int) -> float:
    """Percentage of rows whose class is among the k highest."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1).float().mean().item() * 100
