"""kNN, the linear probe and the effective rank against other implementations and known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from d2v.errors import UserError
from d2v.evaluation.effective_rank import effective_rank
from d2v.evaluation.frozen import LabelledFeatures
from d2v.evaluation.knn import knn_predict, knn_top1
from d2v.evaluation.linear_probe import SoftmaxRegression, linear_probe, logits_of
from d2v.evaluation.probe_encoder import _hold_out

WIDTH, CLASSES = 12, 7


def clusters(num_samples: int, seed: int) -> LabelledFeatures:
    """Overlapping classes whose dimensions have spreads from 1 to 100, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(CLASSES, (num_samples,), generator=generator)
    x = centres[labels] + torch.randn(num_samples, WIDTH, generator=generator)
    return LabelledFeatures(x * torch.logspace(0, 2, WIDTH) + 5, labels)


TRAIN, VAL = clusters(600, 0), clusters(300, 1)


def test_knn_is_that_of_sklearn() -> None:
    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)  # scikit-learn's cosine distance is one less the similarity

    theirs = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=votes)
    theirs.fit(TRAIN.features.numpy(), TRAIN.labels.numpy())
    predicted = knn_predict(TRAIN.features, TRAIN.labels, VAL.features)
    np.testing.assert_array_equal(predicted.numpy(), theirs.predict(VAL.features.numpy()))


def test_knn_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = knn_predict(TRAIN.features, TRAIN.labels, VAL.features)
    monkeypatch.setattr("d2v.evaluation.knn._CHUNK_NUMBERS", 7 * len(TRAIN))
    assert torch.equal(knn_predict(TRAIN.features, TRAIN.labels, VAL.features), whole)


def test_knn_takes_all_neighbours_of_a_small_set() -> None:
    bank = torch.eye(3)
    assert knn_predict(bank, torch.tensor([2, 0, 1]), bank, k=20).tolist() == [2, 0, 1]


def test_knn_accuracy_is_a_percentage() -> None:
    assert knn_top1(TRAIN, TRAIN, k=1) == 100


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-5])
def test_softmax_regression_finds_the_minimum_of_sklearn(l2: float) -> None:
    x = (TRAIN.features - TRAIN.features.mean(dim=0)) / TRAIN.features.std(dim=0)
    x = x @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2))  # correlated
    ours = logits_of(x, SoftmaxRegression(x, TRAIN.labels, CLASSES).solve(l2)).softmax(dim=1)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=10_000)
    theirs.fit(x.double().numpy(), TRAIN.labels.numpy())  # in fp32 it stops far from the minimum
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(x.double().numpy()), rtol=0, atol=2e-3)


def test_softmax_regression_starts_anywhere() -> None:
    problem = SoftmaxRegression(TRAIN.features / 100, TRAIN.labels, CLASSES)
    weights = problem.solve(1e-3)
    for start in (weights, problem.solve(1e-1)):
        torch.testing.assert_close(problem.solve(1e-3, start), weights, atol=1e-2, rtol=1e-2)


def test_softmax_regression_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = SoftmaxRegression(TRAIN.features / 100, TRAIN.labels, CLASSES)
    weights = torch.linspace(-1, 1, (WIDTH + 1) * CLASSES).view(WIDTH + 1, CLASSES)
    whole = problem._objective(weights, 1e-2)
    monkeypatch.setattr("d2v.evaluation.linear_probe._CHUNK_NUMBERS", 11 * CLASSES)
    for ours, expected in zip(problem._objective(weights, 1e-2), whole, strict=True):
        torch.testing.assert_close(ours, expected)


def test_linear_probe_is_as_good_as_sklearn_and_repeats_itself() -> None:
    before = torch.get_rng_state()
    first = linear_probe(TRAIN, VAL)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == linear_probe(TRAIN, VAL)
    mean, std = TRAIN.features.mean(dim=0), TRAIN.features.std(dim=0)
    theirs = LogisticRegression(max_iter=1000).fit(((TRAIN.features - mean) / std).numpy(), TRAIN.labels.numpy())
    score = 100 * theirs.score(((VAL.features - mean) / std).numpy(), VAL.labels.numpy())
    assert abs(first.top1 - score) < 3
    assert first.top5 is not None
    assert first.top5 > first.top1


def test_linear_probe_knows_nothing_of_scale_and_constant_features() -> None:
    def disguise(x: LabelledFeatures) -> LabelledFeatures:
        return LabelledFeatures(torch.cat([x.features * 1000 - 7, torch.full((len(x), 1), 3.7)], dim=1), x.labels)

    assert linear_probe(disguise(TRAIN), disguise(VAL)).top1 == pytest.approx(linear_probe(TRAIN, VAL).top1, abs=0.7)


def test_linear_probe_of_few_classes_and_samples() -> None:
    few = LabelledFeatures(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]]), torch.tensor([0, 1, 0]))
    probe = linear_probe(few, few)
    assert probe.top1 == 100
    assert probe.top5 is None


def test_effective_rank_of_known_matrices() -> None:
    line = torch.linspace(-1, 1, 50)[:, None] * torch.arange(1.0, 9.0)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(9, 4)).item() == 1
    corners = torch.cat([torch.eye(16), -torch.eye(16)])
    assert effective_rank(corners).item() == pytest.approx(16, rel=1e-5)
    assert effective_rank(torch.cat([corners, torch.zeros(32, 40)], dim=1)).item() == pytest.approx(16, rel=1e-5)
    assert effective_rank(torch.eye(10)).item() == pytest.approx(9, rel=1e-5)  # ten points span nine dimensions


def test_effective_rank_is_that_of_the_singular_values() -> None:
    x = torch.randn(30, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, 64)
    for matrix in (x, x.T):
        share = torch.linalg.svdvals((matrix - matrix.mean(dim=0)).double())
        share = share / share.sum()
        expected = torch.special.entr(share).sum().exp()
        assert effective_rank(matrix).item() == pytest.approx(expected.item(), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(3, 40),
    columns=st.integers(2, 24),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-5, 5),
    seed=st.integers(0, 10_000),
)
def test_effective_rank_ignores_scale_rotation_and_shift(
    rows: int, columns: int, scale: float, shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = random(rows, columns) * torch.logspace(0, -1, columns)
    rotation = torch.linalg.qr(random(columns, columns)).Q
    rank = effective_rank(x).item()
    assert 1 - 1e-4 <= rank <= min(rows - 1, columns) + 1e-4
    assert effective_rank(scale * x @ rotation + shift).item() == pytest.approx(rank, rel=1e-4)


def test_what_is_held_out_is_of_each_class() -> None:
    """A fifth of each class, one of two samples, none of a single one."""
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    train, val = _hold_out(LabelledFeatures(torch.arange(13.0)[:, None], labels))
    assert val.labels.tolist() == [0, 0, 1]
    assert len(train) == 10
    assert train.labels.bincount().tolist() == [8, 1, 1]
    assert not set(train.features.flatten().tolist()) & set(val.features.flatten().tolist())
    with pytest.raises(UserError, match="no class has two samples"):
        _hold_out(LabelledFeatures(torch.zeros(3, 1), torch.arange(3)))
