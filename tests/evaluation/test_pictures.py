"""Pictures are written, not empty, and drawn without touching matplotlib's global state."""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from d2v.errors import UserError
from d2v.evaluation.principal_directions import principal_colours
from d2v.model.masking import InverseBlockMasking
from d2v.monitoring.curves import draw_curves, shown_curves
from d2v.monitoring.logged_curves import read_curves
from d2v.monitoring.metric_panels import PANELS
from d2v.monitoring.pictures import denormalise, draw_feature_pca, draw_masks
from d2v.types import Batch

IMAGES = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
GRID = (4, 6)


def pixels(path: Path) -> np.ndarray:
    """The PNG, which must be of a legible size and show something."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert min(picture.shape[:2]) >= 300
    assert picture.std() > 5
    return picture


def test_masks_grey_out_the_masked_share(tmp_path: Path) -> None:
    ids = torch.arange(3)
    mask = InverseBlockMasking(0.75, block_size=2)(Batch(IMAGES, ids, ids), GRID, num_masks=6, seed=0)
    grey = np.all(pixels(draw_masks(IMAGES, mask, GRID, tmp_path / "masks.png")) == 140, axis=2)  # 0.55 * 255
    # 3 pictures x 4 masks of six, of tiles 202 x 135 pixels less the gaps between them
    assert grey.sum() == pytest.approx(0.75 * 12 * 202 * 135, rel=0.12)


def test_features_of_several_encoders_side_by_side(tmp_path: Path) -> None:
    features = {"random": torch.rand(3, 24, 16), "runs/20260101-000000/checkpoints/last.ckpt": torch.rand(3, 24, 16)}
    one = draw_feature_pca(IMAGES, {"random": features["random"]}, GRID, tmp_path / "one.png")
    both = draw_feature_pca(IMAGES, features, GRID, tmp_path / "both.png")
    assert len(pixels(both)) > len(pixels(one))
    assert not plt.get_fignums()


def test_first_component_is_the_strongest_direction() -> None:
    strength = torch.linspace(-1, 1, 20)
    direction = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)
    features = strength.view(2, 10, 1) * direction + 0.01 * torch.rand(2, 10, 8)
    red = principal_colours(features)[..., 0].flatten()
    assert torch.corrcoef(torch.stack([red, strength]))[0, 1] > 0.99
    assert red.min() == 0
    assert red.max() == 1


def test_denormalise_with_and_without_the_statistics() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    normalised = (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(denormalise(normalised, mean, std), IMAGES)
    unknown = denormalise(normalised, None, None)
    assert unknown.amin(dim=(1, 2, 3)).tolist() == [0] * 3
    assert unknown.amax(dim=(1, 2, 3)).tolist() == [1] * 3


def write_metrics(path: Path, rows: list[dict[str, float]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_curves_of_sparse_columns(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [{"step": 0, "probe/knn_top1": 12.5}]
    rows += [{"step": s, "train/loss": 1 / s, "train/ema_decay": 0.999, "train/lr": 1e-3} for s in range(1, 900)]
    metrics = write_metrics(tmp_path / "metrics.csv", [*rows, {"step": 899, "probe/knn_top1": 15.0}])
    probe = read_curves(metrics)["probe/knn_top1"]
    assert (probe.steps.tolist(), probe.values.tolist()) == ([0, 899], [12.5, 15.0])
    pixels(draw_curves(metrics, tmp_path / "curves.png"))


def test_curves_of_each_encoder(tmp_path: Path) -> None:
    names = ("train/loss/speech", "train/loss/vision", "probe/knn_top1/vision")
    rows = [{"step": float(step), **dict.fromkeys(names, 1 / (step + 1))} for step in range(9)]
    curves = read_curves(write_metrics(tmp_path / "metrics.csv", rows))
    loss, probe = PANELS[0], PANELS[3]
    assert shown_curves(loss, curves) == {
        "train/loss/speech": "train, speech",
        "train/loss/vision": "train, vision",
    }
    assert shown_curves(probe, curves) == {"probe/knn_top1/vision": "kNN, vision"}
    pixels(draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png"))


def test_curves_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    metrics = write_metrics(
        tmp_path / "metrics.csv", [{"step": 0, "train/loss": 1.0, "train/target_std": float("nan")}]
    )
    pixels(draw_curves(metrics, tmp_path / "curves.png"))


@pytest.mark.parametrize("rows", [[{"step": 0.0, "other": 1.0}], [{"train/loss": 1.0}]])
def test_a_file_without_curves_is_the_users_error(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        draw_curves(write_metrics(tmp_path / "metrics.csv", rows), tmp_path / "curves.png")
