"""Lists of loggers and callbacks of stacked configs add up."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d2v.commands.early_checks import checked_words

TB, WANDB = "lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.WandbLogger"
PROBE = "d2v.training.callbacks.probe.ProbeCallback"


def logger(path: str, **values: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": values}


def stacked(folder: Path, *trainers: dict[str, Any] | str) -> dict[str, Any]:
    """What the parser makes of the section trainer of several configs, with words between them."""
    words = []
    for number, trainer in enumerate(trainers):
        if isinstance(trainer, str):
            words.append(trainer)
        else:
            path = folder / f"{number}.yaml"
            path.write_text(yaml.safe_dump({"trainer": trainer}))
            words += ["--config", str(path)]
    result: dict[str, Any] = {}
    words = checked_words("fit", words)[1:]
    for option, value in zip(words, [*words[1:], ""], strict=True):
        if option == "--config":
            text = Path(value).read_text() if value.endswith(".yaml") else value
            result.update(yaml.safe_load(text)["trainer"])  # later lists replace, as in jsonargparse
    return result


def test_loggers_of_two_overlays_are_both_kept() -> None:
    words = checked_words("fit", ["--config", "loggers/wandb.yaml", "--config=loggers/tensorboard.yaml"])
    loggers = yaml.safe_load(words[-1])["trainer"]["logger"]
    assert [entry["class_path"] for entry in loggers] == [WANDB, TB]
    assert loggers[0]["init_args"] == {"project": "d2v"}
    assert len(checked_words("fit", ["--config", "loggers/wandb.yaml"])) == 3, "one alone stays as it is"


def test_of_a_class_that_is_named_twice_the_later_values_win(tmp_path: Path) -> None:
    recipe = {"callbacks": [logger(PROBE, every_n_steps=500, k=5), logger("a.Own")], "max_steps": 3}
    overlay = {"callbacks": [logger("lightning.pytorch.callbacks.Timer"), logger(PROBE, every_n_steps=100)]}
    added = stacked(tmp_path, recipe, overlay, {"max_steps": 4})
    expected = [logger(PROBE, every_n_steps=100, k=5), logger("a.Own"), logger("lightning.pytorch.callbacks.Timer")]
    assert added == {"callbacks": expected, "max_steps": 4}
    # Named short, as a plain name, alone and not in a list, or with the parser's own plus.
    added = stacked(tmp_path, {"logger": logger(WANDB, project="a")}, {"logger": "WandbLogger"}, {"logger+": [TB]})
    assert [entry["class_path"] if isinstance(entry, dict) else entry for entry in added["logger"]] == [
        "WandbLogger",
        TB,
    ]
    assert added["logger"][0]["init_args"] == {"project": "a"}


@pytest.mark.parametrize("none", [None, False, []])
def test_an_overlay_can_remove_and_replace(tmp_path: Path, none: Any) -> None:
    first, second = {"callbacks": [logger(PROBE, every_n_steps=1)]}, {"callbacks": [logger("a.Own")]}
    assert stacked(tmp_path, first, {"callbacks": none}) == {"callbacks": none}
    assert stacked(tmp_path, first, {"callbacks": none}, second) == second
    assert stacked(tmp_path, first, "--trainer.callbacks=null", second) == second
