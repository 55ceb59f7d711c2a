"""``d2v probe``: kNN and linear accuracy of frozen features, of one encoder or of several side by side."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from d2v.commands.arguments import add_features, find_device, positive
from d2v.configs import find_config
from d2v.errors import UserError

if TYPE_CHECKING:  # nothing heavy is imported before the arguments are known to be right
    import torch

    from d2v.data.module import PretrainingDataModule
    from d2v.model.encoder import Encoder

RANDOM = "random"
"""What ``--checkpoint`` is given for an untrained encoder."""
NUM_PICTURES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; those of the data are found by :func:`parse_args`."""
    parser.epilog = (
        "Any value of the data section can be set: --data.root DIR, --data.batch_size N, --data.num_workers N, ... "
        "The last line of stdout is one JSON object."
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="PATH|random",
        help="checkpoint or exported folder; random: the config's student, untrained; repeat it to compare",
    )
    parser.add_argument(
        "--config",
        action="append",
        required=True,
        metavar="NAME.yaml",
        help="config with a data section, by path or by name; later ones change earlier ones",
    )
    add_features(parser)
    parser.add_argument("--pool", choices=("mean", "cls"), default="mean", help="of the tokens of a sample")
    parser.add_argument("--max_samples", type=positive, metavar="N", help="at most N of each split, evenly spaced")
    parser.add_argument("--k", type=positive, default=20, help="neighbours of the kNN classifier (20)")
    parser.add_argument("--seed", type=int, help="of untrained encoders; default: seed_everything of the config, or 0")
    parser.add_argument("--output", type=Path, metavar="DIR", help="draw masks, features and training curves there")


def parse_args(parser: argparse.ArgumentParser, args: Sequence[str]) -> argparse.Namespace:
    """Parse, and keep ``--data.*`` for the DataModule, whose keys only the config knows."""
    namespace, rest = parser.parse_known_args(args)
    namespace.data = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--data."):
            parser.error(f"unrecognized argument: {word}")
        if "=" not in word:
            if not rest:
                parser.error(f"{word}: a value is missing")
            word = f"{word}={rest.pop(0)}"
        namespace.data.append(word)
    return namespace


def run(args: argparse.Namespace) -> None:
    """Probe each encoder, print a table and the JSON object, and draw if asked to.

    Raises:
        UserError: A config, a value in it, a checkpoint, a layer or the device is wrong, or the data have no labels.
    """
    config = _merged_config(args.config)
    datamodule, data_args = _build_datamodule(config, args.data)
    device = find_device(args.device)
    encoders = {name: _build_encoder(name, config, args) for name in dict.fromkeys(args.checkpoint)}
    if RANDOM in encoders:  # it reads what the trained one reads: the same tokens
        encoders[RANDOM].assets = next((dict(encoder.assets) for encoder in encoders.values() if encoder.assets), {})
    rows: list[dict[str, Any]] = []
    for name, encoder in encoders.items():
        datamodule.adapt_to(encoder)
        rows.append(_probe(encoder.to(device), name, datamodule, device, args))
    print(_table(rows))
    if args.output is not None:
        for path in _draw(encoders, datamodule, data_args, config, device, args.output):
            print(f"drawn: {path}")
    print(json.dumps(rows[0] | ({"baseline": rows[-1]} if len(rows) > 1 else {})))


def _merged_config(names: Sequence[str]) -> dict[str, Any]:
    """Configs on top of each other as LightningCLI stacks them: dicts merge, unless they are parts of two classes; all
    else is replaced."""
    merged: dict[str, Any] = {}
    for name in names:
        path = find_config(name)
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"--config {path} is no YAML: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"--config {path}: a config is a mapping of sections, such as `data:`")
        _merge(merged, content)
    return merged


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        before = into.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and _same_class(before, value):
            _merge(before, value)
        else:
            into[key] = value


def _same_class(before: dict[str, Any], value: dict[str, Any]) -> bool:
    return value.get("class_path", before.get("class_path")) == before.get("class_path")


def _build_datamodule(
    config: dict[str, Any], overrides: Sequence[str]
) -> tuple["PretrainingDataModule", dict[str, Any]]:
    """The DataModule of the config, and all the values it was built with."""
    import jsonargparse
    from lightning.pytorch import LightningDataModule

    from d2v.commands.messages import parser_message
    from d2v.data.module import PretrainingDataModule

    if "data" not in config:
        raise UserError("--config: there is no `data:` section; give a config that has one, such as the run's own")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule)
    try:
        values = parser.parse_args([f"--data={json.dumps(config['data'])}", *overrides])
        datamodule = parser.instantiate(values).data
    except UserError:
        raise
    except jsonargparse.ArgumentError as error:
        raise UserError(parser_message(error, {})) from error
    except (TypeError, ValueError) as error:  # the DataModule refused its values
        raise UserError(f"data: {error}") from error
    if not isinstance(datamodule, PretrainingDataModule):
        raise UserError(f"data.class_path {values.data.class_path}: it has no labelled splits, so nothing to probe")
    return datamodule, values.data.init_args.as_dict()


def _build_encoder(name: str, config: dict[str, Any], args: argparse.Namespace) -> "Encoder":
    """Load a checkpoint, or build the config's student with random weights."""
    if name != RANDOM:
        from d2v.checkpoints.load import load

        return load(name, weights=args.weights)
    import torch

    from d2v.checkpoints.recipe import build_encoder

    student = _model_args(config).get("student")
    if not isinstance(student, dict):
        raise UserError("--checkpoint random: the config has no `model.init_args.student` to build an encoder from")
    seed = config.get("seed_everything", 0) if args.seed is None else args.seed
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        return build_encoder(student)


def _model_args(config: dict[str, Any]) -> dict[str, Any]:
    return (config.get("model") or {}).get("init_args") or {}


def _probe(
    encoder: "Encoder", name: str, datamodule: "PretrainingDataModule", device: "torch.device", args: argparse.Namespace
) -> dict[str, Any]:
    """One row: accuracies in percent, and what they were measured on."""
    from d2v.evaluation.probe import probe

    start = time.perf_counter()
    train_loader, val_loader = datamodule.probe_dataloaders(args.max_samples)
    result = probe(encoder, train_loader, val_loader, device, args.layer, args.pool, args.k, unpenalised=True)
    assert result.linear is not None
    assert result.linear_unpenalised is not None
    top5 = result.linear.top5
    return {
        "knn_top1": round(result.knn_top1, 2),
        "linear_top1": round(result.linear.top1, 2),
        **({} if top5 is None else {"linear_top5": round(top5, 2)}),
        "linear_unpenalised_top1": round(result.linear_unpenalised.top1, 2),
        "checkpoint": name,
        "weights": RANDOM if name == RANDOM else args.weights,
        "layer": args.layer,
        "pool": args.pool,
        "k": args.k,
        "l2": result.linear.l2,
        "train_samples": result.train_samples,
        "val_samples": result.val_samples,
        "num_classes": datamodule.num_classes,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """A column an encoder, a line a measure."""
    lines = [["", *(row["checkpoint"] for row in rows)]]
    labels = {
        "knn_top1": "kNN top-1 %",
        "linear_top1": "linear top-1 %",
        "linear_top5": "linear top-5 %",
        "linear_unpenalised_top1": "linear top-1 %, no penalty",
    }
    for key, label in labels.items():
        if key in rows[0]:
            lines.append([label, *(f"{row[key]:.2f}" for row in rows)])
    lines.append(["seconds", *(f"{row['seconds']:.1f}" for row in rows)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first = rows[0]
    table = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    samples = f"{first['train_samples']:,} train and {first['val_samples']:,} val samples"
    what = f"{samples} of {first['num_classes']} classes"
    return "\n".join([what, *table])


def _draw(
    encoders: dict[str, "Encoder"],
    datamodule: "PretrainingDataModule",
    data_args: dict[str, Any],
    config: dict[str, Any],
    device: "torch.device",
    output: Path,
) -> list[Path]:
    """Masks and features of a few validation pictures, and the curves of the run that a checkpoint lies in."""
    from d2v.checkpoints.recipe import build
    from d2v.model.masking import Masking
    from d2v.monitoring.curves import draw_curves
    from d2v.monitoring.pictures import denormalise, draw_feature_pca, draw_masks

    output.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    batch = next(iter(datamodule.probe_dataloaders(NUM_PICTURES)[1]))
    first = next(iter(encoders.values()))
    grid = first.extract(batch.inputs.to(device)).grid
    if batch.inputs.ndim == 4 and len(grid) == 2:
        images = denormalise(batch.inputs, data_args.get("mean"), data_args.get("std"))
        model_args = _model_args(config)
        if "masking" in model_args:
            mask = build(model_args["masking"], Masking)(batch, grid, model_args.get("num_masks", 1), 0)
            drawn.append(draw_masks(images, mask, grid, output / "masks.png"))
        features = {name: e.eval().embed(batch.inputs.to(device), pool="none").cpu() for name, e in encoders.items()}
        drawn.append(draw_feature_pca(images, features, grid, output / "features_pca.png"))
    for name in encoders:
        path = Path(name).resolve()  # a run's folder, or a checkpoint in its checkpoints/
        metrics = [folder / "metrics.csv" for folder in (path, *path.parents[:2])]
        found = next((file for file in metrics if name != RANDOM and file.is_file()), None)
        if found is not None:
            drawn.append(draw_curves(found, output / "curves.png"))
            break
    return drawn
