"""Compares encoders by their frozen features: the function behind `d2v probe`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from d2v.built_parts import own_packages
from d2v.checkpoints.load import Weights, load, untrained_like
from d2v.checkpoints.recipe import build, build_encoder
from d2v.data.data_module import PretrainingDataModule
from d2v.data.normalisation import normalised
from d2v.errors import UserError
from d2v.evaluation.frozen import find_device
from d2v.evaluation.labelled_data import build_data, labelled_data
from d2v.evaluation.probe_encoder import probe_encoder
from d2v.joint_configs import merged_configs
from d2v.model.encoder import Encoder, Layer
from d2v.model.masking import Masking
from d2v.monitoring.curves import draw_curves
from d2v.monitoring.pictures import denormalise, draw_feature_pca, draw_masks

RANDOM = "random"
"""Stands in place of a checkpoint for an untrained encoder."""
_NUM_PICTURES = 8
_LABELS = {
    "knn_top1": "kNN top-1 %",
    "linear_top1": "linear top-1 %",
    "linear_top5": "linear top-5 %",
    "linear_unpenalised_top1": "linear top-1 %, no penalty",
}


@dataclass(frozen=True)
class Comparison:
    """What :func:`probe` found; printed, it is a table with one column an encoder."""

    rows: list[dict[str, Any]]
    """One an encoder: ``knn_top1``, ``linear_top1``, ``linear_top5`` (from six classes on) and
    ``linear_unpenalised_top1``, accuracies in percent on the validation samples; and what they were measured on."""
    drawn: list[Path]
    """Files of pictures that were written."""

    def __str__(self) -> str:
        first = self.rows[0]
        samples = f"{first['train_samples']:,} train and {first['val_samples']:,} val samples"
        if first["held_out"]:
            samples += " (a fifth of each class held out, because there is no validation split)"
        labels = {key: label for key, label in _LABELS.items() if key in first}
        width = max(map(len, labels.values()))
        lines = [" " * width, *(label.ljust(width) for label in labels.values()), "seconds".ljust(width)]
        for row in self.rows:
            cells = [row["checkpoint"], *(f"{row[key]:.2f}" for key in labels), f"{row['seconds']:.1f}"]
            width = max(map(len, cells))
            for number, cell in enumerate(cells):
                lines[number] += f"  {cell:>{width}}"
        return "\n".join([f"{samples} of {first['num_classes']} classes", *lines])


def probe(
    checkpoint: str | Path | Sequence[str | Path],
    config: str | Path | Sequence[str | Path] = (),
    *,
    data: Mapping[str, Any] | None = None,
    weights: Weights = "student",
    modality: str | None = None,
    media: Mapping[str, Any] | None = None,
    layer: Layer = None,
    pool: Literal["mean", "cls"] = "mean",
    max_samples: int | None = None,
    k: int = 20,
    seed: int | None = None,
    untrained: bool = True,
    output: str | Path | None = None,
    device: str = "auto",
    allow: Iterable[str] = (),
) -> Comparison:
    """Classify labelled data by the frozen features of encoders: by nearest neighbours, and by a linear classifier.

    Args:
        checkpoint: One or several to compare, as :func:`d2v.load` takes them. "random" is the first of them with new
            weights, or if there is none the student of the config.
        config: One or several with a section ``data``, by path or by the name of a shipped one; later ones change
            earlier ones. None: that of the first checkpoint's run; if ``data`` then names another root, or if the
            checkpoint is no run, samples are read as is usual for what it encodes.
        data: Changes to that section, such as {"root": DIR}.
        weights: The students', or the teachers'.
        modality: Which encoder of checkpoints, and which part of a config, that hold several.
        media: Changes to the section ``media`` of a joint config, such as {"speech": None}.
        layer: As in :func:`d2v.embed_files`.
        pool: The mean of a sample's tokens, or its CLS token.
        max_samples: At most so many of each split, evenly spaced; None: all.
        k: Neighbours of the kNN classifier.
        seed: Seed of untrained encoders; None: ``seed_everything`` of the config, or 0.
        untrained: Whether "random" is added, if it is not among the checkpoints.
        output: Folder to draw masks, features (of pictures) and training curves in; None: nothing is drawn.
        device: auto, cpu, cuda, cuda:1, mps.
        allow: Packages outside d2v whose classes a checkpoint may name; see :func:`d2v.load`. Those in the
            working folder that the config names are allowed.

    Raises:
        UserError: A config, a value in it, a checkpoint, a layer or the device is wrong, or the data have no labels.
    """
    names = _several(checkpoint)
    trained = [name for name in names if name != RANDOM]
    configs: list[Any] = _several(config)
    if not config and not trained:
        raise UserError("--checkpoint random: an untrained encoder needs another checkpoint, or a --config to build it")
    if not config and (own := _file_of_run(trained[0], "config.yaml")):
        configs = [own]
    where = find_device(device)
    encoders: dict[str, Encoder] = {name: load(name, weights, modality, allow) for name in trained}
    merged = merged_configs(configs, modality, media)
    if seed is None:
        seed = int(merged.get("seed_everything") or 0)
    if RANDOM in names or untrained:
        encoders[RANDOM] = _untrained(next(iter(encoders.values()), None), merged, seed, allow)
    first = next(iter(encoders.values()))
    if config:
        if "data" not in merged:
            raise UserError("--config: there is no `data:` section; give a config that has one, such as the run's own")
        datamodule = build_data(merged["data"], data or {})
    else:
        datamodule = labelled_data(first, data or {}, merged.get("data"))
    rows = []
    for name, encoder in encoders.items():
        start = time.perf_counter()
        datamodule.adapt_to(encoder)
        train_loader, val_loader = datamodule.probe_dataloaders(max_samples)
        found = probe_encoder(encoder.to(where), train_loader, val_loader, where, layer, pool, k, unpenalised=True)
        assert found.linear is not None
        assert found.linear_unpenalised is not None
        row = {"knn_top1": round(found.knn_top1, 2), "linear_top1": round(found.linear.top1, 2)}
        if found.linear.top5 is not None:
            row["linear_top5"] = round(found.linear.top5, 2)
        row["linear_unpenalised_top1"] = round(found.linear_unpenalised.top1, 2)
        measured = {
            "checkpoint": name,
            "weights": RANDOM if name == RANDOM else weights,
            "layer": layer,
            "pool": pool,
            "k": k,
            "l2": found.linear.l2,
            "train_samples": found.train_samples,
            "val_samples": found.val_samples,
            "held_out": val_loader is None,
            "num_classes": datamodule.num_classes,
            "seconds": round(time.perf_counter() - start, 2),
        }
        rows.append({**row, **measured})
    drawn: list[Path] = []
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        drawn += _draw_pictures(encoders, datamodule, merged, where, folder)
        drawn += _draw_curves(list(encoders), folder)
    return Comparison(rows, drawn)


def _file_of_run(checkpoint: str, name: str) -> Path | None:
    """A file in the folder of the run that a checkpoint comes from, if it does."""
    path = Path(checkpoint).expanduser().absolute()
    for place in [path] if path.is_dir() else path.parents[:2]:  # the run's folder, or a file in its checkpoints/
        if (place / name).is_file():
            return place / name
    return None


def _several(names: str | Path | Sequence[str | Path]) -> list[str]:
    if isinstance(names, str | Path):
        return [str(names)]
    return list(dict.fromkeys(map(str, names)))


def _untrained(trained: Encoder | None, config: dict[str, Any], seed: int, allow: Iterable[str]) -> Encoder:
    """An encoder with random weights: one built like a trained one, which reads the same inputs, or the config's."""
    if trained is not None:
        return untrained_like(trained, seed, allow)
    recipe = _model_args(config).get("student")
    if not isinstance(recipe, dict):
        raise UserError("--checkpoint random: the config has no `model.init_args.student` to build an encoder from")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(recipe, own_packages(recipe))


def _model_args(config: dict[str, Any]) -> dict[str, Any]:
    return (config.get("model") or {}).get("init_args") or {}


def _draw_pictures(
    encoders: dict[str, Encoder],
    datamodule: PretrainingDataModule,
    config: dict[str, Any],
    device: torch.device,
    folder: Path,
) -> list[Path]:
    """Draw masks and features of a few validation pictures, if the data are pictures."""
    train_loader, val_loader = datamodule.probe_dataloaders(_NUM_PICTURES)
    batch = next(iter(val_loader or train_loader))
    inputs = batch.inputs.to(device)
    first = next(iter(encoders.values()))
    grid = first.extract(normalised(inputs, first.assets)).grid
    if inputs.ndim != 4 or len(grid) != 2:
        return []
    drawn = []
    if inputs.dtype == torch.uint8:
        images = batch.inputs / 255
    else:
        images = denormalise(batch.inputs, getattr(datamodule, "mean", None), getattr(datamodule, "std", None))
    model_args = _model_args(config)
    if "masking" in model_args:
        masking = build(model_args["masking"], Masking, allow=own_packages(model_args["masking"]))
        mask = masking(batch, grid, model_args.get("num_masks", 1), 0)
        drawn.append(draw_masks(images, mask, grid, folder / "masks.png"))
    features = {}
    for name, encoder in encoders.items():
        features[name] = encoder.eval().embed(normalised(inputs, encoder.assets), pool="none").cpu()
    drawn.append(draw_feature_pca(images, features, grid, folder / "features_pca.png"))
    return drawn


def _draw_curves(checkpoints: list[str], folder: Path) -> list[Path]:
    """Draw the curves of the first checkpoint that comes from a run."""
    for name in checkpoints:
        if name != RANDOM and (metrics := _file_of_run(name, "metrics.csv")):
            return [draw_curves(metrics, folder / "curves.png")]
    return []
