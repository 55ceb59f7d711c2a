"""A run with MediaCallback, its history, and the page about it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

D2V = Callable[..., tuple[int, str, str]]
MEDIA = ["--trainer.callbacks+", "d2v.training.callbacks.media.MediaCallback", "--trainer.callbacks.every_n_steps", "2"]


def history(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_media_and_history_of_a_run_are_on_its_page(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    tensorboard = ["--config", "loggers/tensorboard.yaml"]
    code, _, err = d2v("fit", *tiny, *MEDIA, *tensorboard, "--run_name", "a", "--trainer.max_steps", "5")
    assert code == 0, err
    run = tmp_path / "runs" / "a"
    assert {path.name for path in (run / "media").iterdir()} == {f"step-{step:06d}" for step in (1, 2, 4, 5)}
    names = {path.name for path in (run / "media" / "step-000005").iterdir()}
    assert names == {"masks.png", "features.png", "similarity.png", "neighbours.png", "spectrum.json"}
    start, end = history(run)
    assert (start["event"], start["step"], start["planned_steps"], start["torch"]) == ("start", 0, 5, torch.__version__)
    assert (end["event"], end["how"], end["step"]) == ("end", "done", 5)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    images = events.Tags()["images"]
    assert {"media/masks", "media/features", "media/similarity", "media/neighbours", "media/spectrum"} == set(images)
    assert [image.step for image in events.Images("media/masks")] == [1, 2, 4, 5]

    code, out, err = d2v("report", "runs/a")
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert page.count('<img src="data:image/webp') == 4 * 4
    assert out.startswith("runs/a/report.html: a; ")
    panels = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["panels"]  # type: ignore[index]
    assert [line["label"] for line in panels[-1]["lines"]] == ["step 1", "step 4", "step 5"]

    assert d2v("fit", *tiny, "--run_name", "without", "--trainer.max_steps", "5")[0] == 0
    states = []
    for name in ("a", "without"):
        checkpoint = torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        states.append(checkpoint["state_dict"])
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items()), "media change nothing"


def test_a_run_that_fails_says_why(d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2v.training.callbacks.log import LogCallback

    def fail(*args: object) -> None:
        raise RuntimeError("the device <x> is gone")

    monkeypatch.setattr(LogCallback, "on_train_batch_end", fail)
    assert d2v("fit", *tiny, "--run_name", "a")[0] == 1
    assert history(tmp_path / "runs/a")[-1]["why"] == "RuntimeError: the device <x> is gone"
    assert d2v("report", "runs/a")[0] == 0
    page = (tmp_path / "runs/a/report.html").read_text()
    assert "RuntimeError: the device &lt;x&gt; is gone" in page
    assert "before its first line of metrics" in page
