"""`d2v report`: a page that holds everything, from folders that hold less than everything."""

import hashlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from PIL import Image
from run_folders import CONFIG, START, table, write_run

from d2v.errors import UserError
from d2v.monitoring.report.page import report

TEMPLATE = Path(__file__).parents[2] / "src" / "d2v" / "monitoring" / "report" / "template"


def page_of(*runs: Path) -> str:
    return report(runs).path.read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """What can be read without JavaScript."""
    page = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_one_file_holds_all_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first")
    (run / "metrics.csv").write_text(
        table(
            train_loss=lambda step: 16 - step / 10,
            probe_knn_top1=lambda step: {0: 41.5, 99: 61.25}.get(step, ""),
            throughput_padding_fraction=lambda step: 0.25,
            data_skipped=lambda step: 2,
        )
    )
    verdict = {
        "step": 40,
        "fault": "no warm-up",
        "what": "loss rose",
        "cure": "model.schedule.warmup",
    }
    (run / "verdicts.jsonl").write_text(f'{json.dumps(verdict)}\n{{"step": 41, "fau')
    (run / "skipped.txt").write_text("a/broken.jpg\nb/empty.png\n")
    media = run / "media" / "step-000100"
    media.mkdir(parents=True)
    Image.fromarray(np.full((40, 60, 3), 120, np.uint8)).save(media / "masks.png")
    (media / "tokens.json").write_text(json.dumps({"texts": [[["seen ", False], ["hidden", True]]]}))
    (media / "spectrum.json").write_text(json.dumps({"features": [0.5, 0.3, 0.2]}))
    page = page_of(run)
    words = words_of(page)
    for text in (
        "done", "100 of 100 (100%)", "16 → 6.100", "1.50 million", "41.5 → 61.2% (+19.8)", "no warm-up at step 40",
        "Cure: model.schedule.warmup", "2 samples could not be read", "a/broken.jpg", "abc123", "2.12.0", "/home/me",
        f"d2v fit --resume {run}", "num_masks: 4", "seen hidden",
    ):  # fmt: skip
        assert text in words, text
    assert "<mark>hidden</mark>" in page
    assert 'src="data:image/webp;base64,' in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page), "nothing is fetched"
    assert "default-src 'none'" in page
    data = data_of(page)
    loss = data["panels"][0]["lines"][0]
    assert (loss["x"][:2], loss["y"][:2], "lo" in loss) == ([0, 1], [16, 15.9], False)
    assert data["panels"][-1]["lines"][0]["y"] == [0.5, 0.3, 0.2]


def test_two_runs_are_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "run")
    other = write_run(tmp_path / "b" / "run", config=CONFIG.replace("0.002", "0.02"))
    page = page_of(one, other)
    words = words_of(page)
    assert "a/run" in words
    assert re.search(r"model\.optimizer\.lr 0\.002 0\.02", words)
    configs = page.partition('id="config"')[2]
    differing = re.findall(r'<th scope="row"><code>([^<]*)</code></th><td>[^<]*</td><td>', configs)
    assert differing == ["model.optimizer.lr"]
    assert [line["run"] for line in data_of(page)["panels"][0]["lines"]] == [0, 1]
    assert (one / "comparison.html").is_file()


def test_media_of_a_joint_run_stand_side_by_side(tmp_path: Path) -> None:
    config = CONFIG.replace("num_masks: 4", "media: {speech: {}, vision: {}}")
    columns = {"train_target_std/speech": lambda step: 0.5, "train_target_std/vision": lambda step: 0.9}
    run = write_run(tmp_path / "joint", table(5, **columns), config)
    panel = data_of(page_of(run))["panels"][0]
    assert [(line["encoder"], line["y"][0]) for line in panel["lines"]] == [("speech", 0.5), ("vision", 0.9)]
    both = data_of(page_of(run, write_run(tmp_path / "again", table(5, **columns), config)))["panels"]
    assert [[line["encoder"] for line in panel["lines"]] for panel in both] == [["speech"] * 2, ["vision"] * 2]


def test_names_and_texts_of_a_run_are_no_code(tmp_path: Path) -> None:
    bad = "<script>alert(1)<"  # a folder's name has no stroke
    run = write_run(tmp_path / bad, config=f"{CONFIG}run_name: '{bad}/script>'\n")
    (run / "verdicts.jsonl").write_text(json.dumps({"step": 1, "fault": bad, "what": f"{bad}/script><img src=x>"}))
    page = page_of(run)
    assert "alert(1)" in words_of(page.replace("&lt;", "").replace("&gt;", ""))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 3
    assert data_of(page)["runs"] == [bad]


def test_keys_of_services_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    secrets = "wandb_api_key: f00dfeed\nlogger: {token: cafe, dir: 's3://me:word@host/x', k: 0123456789abcdef}\n"
    page = page_of(write_run(tmp_path / "run", config=f"{CONFIG}{secrets}"))
    assert "wandb_api_key: &#x27;***&#x27;" in page
    for secret in ("f00dfeed", "cafe", "me:word", "0123456789abcdef"):
        assert secret not in page


def test_what_a_killed_process_leaves_is_read(tmp_path: Path) -> None:
    whole = "step,train/loss,train/grad_norm\n0,4.0,inf\n1,nan,2\n,7,7\n2,3\nx,1,1\n3,2.5,word\n3,2.0,3\n4,1.5,1e999\n"
    run = write_run(tmp_path / "run", f"{whole}5,0.", history=[START])
    page = page_of(run)
    loss, norm = (panel["lines"][0] for panel in data_of(page)["panels"])
    assert (loss["x"], loss["y"], loss["bad"]) == ([0, 3, 4], [4, 2, 1.5], [1])
    assert (norm["x"], norm["y"], norm["bad"]) == ([1, 3], [2, 3], [0, 4])
    words = words_of(page)
    assert "train/grad_norm is no finite number at 2 logged steps, first at step 0" in words
    assert "its process was killed" in words
    assert f"# goes on from its last checkpoint d2v fit --resume {run}" in words


@pytest.mark.parametrize("metrics", ["", "step,train/loss\n", "step,train/loss", "\0\0\0\0", "epoch,x\n1,2\n"])
def test_a_run_that_logged_nothing(tmp_path: Path, metrics: str) -> None:
    failed = {"event": "end", "step": 0, "how": "failed", "why": "RuntimeError: no <kernel>"}
    run = write_run(tmp_path / "run", metrics, history=[START, failed])
    (run / "checkpoints" / "step-100.ckpt").unlink()
    page = page_of(run)
    words = words_of(page)
    assert "failed before its first line of metrics RuntimeError: no &lt;kernel&gt;" in words
    assert "# it has no checkpoint: this starts anew d2v fit --config demo/vision.yaml" in words
    assert data_of(page)["panels"] == []
    assert ("there is no column `step`" in words) == metrics.startswith("epoch")


def test_a_run_that_went_on_with_another_config(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", history=[START, {**START, "step": 50, "torch": "2.13.0"}])
    (run / "config-until-50.yaml").write_text(CONFIG.replace("0.002", "0.001"))
    page = page_of(run)
    words = words_of(page)
    assert re.search(r"key until step 50 later model\.optimizer\.lr 0\.001 0\.002", words)
    assert "2.13.0" in words
    assert data_of(page)["resumed"] == [[50]]


def test_a_million_points_are_thinned_and_no_spike_is_lost(tmp_path: Path) -> None:
    steps = np.arange(1_000_000)
    values = np.sin(steps / 1e5) + np.random.default_rng(0).normal(0, 0.01, len(steps))
    values[[123_456, 777_777]] = [50, -50]
    rows = np.char.add(np.char.add(steps.astype(str), ","), np.char.mod("%.5f", values))
    run = write_run(tmp_path / "long", "step,train/loss\n" + "\n".join(rows) + "\n")
    start = time.process_time()
    page = page_of(run)
    assert time.process_time() - start < 15
    line = data_of(page)["panels"][0]["lines"][0]
    assert len(line["x"]) == 1000
    assert (max(line["hi"]), min(line["lo"])) == (50, -50)
    stretch = slice(100_000, 101_000)
    assert line["y"][100] == pytest.approx(values[stretch].mean(), abs=1e-3)
    assert "1,000,000 logged points are drawn as 1,000, on purpose" in words_of(page)
    assert len(page) < 300_000


def test_many_pictures_stay_below_three_megabytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    generator = np.random.default_rng(0)
    for number in range(6):
        folder = run / "media" / f"step-{number}"
        folder.mkdir(parents=True)
        noise = generator.integers(0, 256, (700, 900, 3), np.uint8)
        Image.fromarray(noise).save(folder / "masks.png", compress_level=0)
    page = page_of(run)
    assert len(page) < 3_000_000
    assert "more pictures lie in the folder media" in words_of(page)
    assert "step 5" in words_of(page)


def test_what_is_no_run_is_said(d2v: D2V, tmp_path: Path) -> None:  # noqa: F811
    run = write_run(tmp_path / "runs" / "good")
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["missing"], "missing: there is no such folder"),
        (["empty"], "empty: is no run's folder, which has config.yaml or metrics.csv"),
        (["runs"], "it holds runs: give one or more of them, such as runs/good"),
        ([run, "--output", run / "config.yaml" / "x.html"], "cannot be written"),
        ([run, "--output", tmp_path], "is a folder; name a file in it"),
    ):
        code, out, err = d2v("report", *words)
        assert (code, out) == (2, ""), err
        assert said in err
        assert "Traceback" not in err
    code, out, _ = d2v("report", run, "--output", "pages/mine.html")
    assert (code, out[:17]) == (0, "pages/mine.html: ")
    assert (tmp_path / "pages" / "mine.html").is_file()
    with pytest.raises(UserError, match="at least one"):
        report([])


def test_the_library_inside_is_the_one_that_is_named() -> None:
    readme = (TEMPLATE / "uplot" / "README.md").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        content = (TEMPLATE / "uplot" / name).read_bytes()
        assert f"{name}".ljust(20) + f" sha256 {hashlib.sha256(content).hexdigest()}" in readme
