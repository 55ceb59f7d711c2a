"""The command `d2v bench`."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from d2v.bench import stopwatch
from d2v.bench.result import comparison, read_result
from d2v.bench.step_parts import PARTS
from d2v.cli import main

# The demo of text, smaller: the quickest of the recipes.
QUICK = [
    "bench", "--config", "demo/text.yaml", "--precision", "32", "--device", "cpu", "--steps", "3",
    "--batch_size", "256",
    "--model.student.trunk.width=32", "--model.student.trunk.num_heads=4",
]  # fmt: skip


def test_the_last_line_is_the_result_and_the_parts_are_about_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time of this process alone: the parts are of other steps, beside which another test may compute.
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=time.process_time))
    assert main([*QUICK, "--output", str(tmp_path)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    assert (tmp_path / "bench.png").stat().st_size > 1000
    assert result["batch"]["inputs"] == [2, 128]
    assert list(result["parts"]) == list(PARTS)
    assert sum(result["parts"].values()) == pytest.approx(result["step_seconds"], rel=0.5)
    assert min(result["parts"].values()) > 0
    assert result["mfu"] == pytest.approx(
        result["flops_per_step"] * result["samples_per_second"] / 2 / result["ceiling_flops"]
    )
    assert result["tokens_per_second"] == pytest.approx(128 * result["samples_per_second"])
    for name in ("kernels", "idle_share", "synchronisations"):
        assert result[name] is None  # on a CPU
    assert any(line.startswith("step  ") for line in lines)
    print(comparison(result, {**result, "threads": 64, "step_seconds": 2 * result["step_seconds"]}, "other"))
    beside = capsys.readouterr().out
    assert "differs     threads: 64 there" in beside
    assert "2.00" in beside
    assert read_result(tmp_path / "bench.json") == result


def test_peers_step_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--peers", "--steps=1", "--model.student.trunk.depth=2", "--model.targets.top_k=1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result["peers"]) == {"torch blocks", "official_like"}
    for peer in result["peers"].values():
        assert peer["peer_over_ours"] == pytest.approx(peer["step_seconds"] / peer["our_step_seconds"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "none_such.yaml"], "none_such.yaml"),
        (["--config", "finetune/pictures.yaml"], "fine-tunes"),
        (["--config", "vision.yaml", "--batch_size", "0"], "data.batch_size"),
        (["--config", "vision.yaml", "--device", "cuda:77"], "--device cuda:77"),
        (["--config", "vision.yaml", "--compare", "no.json"], "--compare no.json"),
        (["--config", "vision.yaml", "--compare", __file__], "no result of `d2v bench`"),
        (["--config", "vision.yaml", "--nonsense", "1"], "--nonsense"),
        (["--config", "vision.yaml", "--output", f"{__file__}/out"], "--output"),
        (["--config", "vision.yaml", "--peers", "--data.root", "x"], "--peers"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
