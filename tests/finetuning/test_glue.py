"""GLUE: its files as it hands them out, its recipes, and `d2v glue` from a checkpoint to the table."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from command_line import D2V
from encoders import save_checkpoint, text_encoder

from d2v.configs import SHIPPED
from d2v.errors import UserError
from d2v.modalities.text.labelled.glue import TASKS, GlueDataModule, submission
from d2v.modalities.text.labelled.glue_results import GlueResults, GlueRun, best_of, best_runs, table
from d2v.modalities.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.train(["they say that it is what it is not"] * 3, 270)
WORDS = ("it is", "they say", '"what" is it', "it is not")


def write(path: Path, header: str | None, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in ([header] if header else []) + rows), encoding="utf-8", newline="")


def rows(form: str, labels: tuple[str, ...], count: int = 8) -> list[str]:
    """A row a line: ``{i}`` its number, ``{a}`` and ``{b}`` texts, ``{y}`` the label."""
    return [
        form.format(i=i, a=WORDS[i % 4], b=WORDS[(i + 1) % 4], y=labels[i % len(labels)] if labels else "")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks as GLUE hands them out, a few rows each; MRPC as Microsoft does, QNLI as Hugging Face does."""
    root = tmp_path_factory.mktemp("data") / "glue_data"
    for split in ("train", "dev"):
        write(root / f"CoLA/{split}.tsv", None, rows("gj04\t{y}\t*\t{a}", ("1", "0")))
        write(root / f"SST-2/{split}.tsv", "sentence\tlabel", rows("{a} \t{y}", ("1", "0")))
        form = "{i}\tmain\tMSRvid\t2012\t000{i}\tnone\tnone\t{a}\t{b}\t{y}"
        header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
        write(root / f"STS-B/{split}.tsv", header, rows(form, ("5.000", "0.400", "2.5")))
        header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
        write(root / f"QQP/{split}.tsv", header, [*rows("{i}\t1\t2\t{a}\t{b}\t{y}", ("0", "1")), "9\t1\t2\tbroken"])
        write(root / f"RTE/{split}.tsv", "index\tsentence1\tsentence2\tlabel", rows("{i}\t{a}\t{b}\t{y}", ENTAILMENT))
        write(root / f"WNLI/{split}.tsv", "index\tsentence1\tsentence2\tlabel", rows("{i}\t{a}\t{b}\t{y}", ("0", "1")))
    header = "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
    for split in ("train", "dev_matched", "dev_mismatched"):
        labels = ("neutral", "contradiction", "entailment")
        write(root / f"MNLI/{split}.tsv", header, rows("{i}\t7\tgovernment\t{a}\t{b}\tneutral\t{y}", labels))
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for split in ("train", "test"):
        write(root / f"MRPC/msr_paraphrase_{split}.txt", header, rows("{y}\t1\t2\t{a}\t{b}", ("1", "0")))
    names = datasets.ClassLabel(names=list(ENTAILMENT))
    features = datasets.Features(question=datasets.Value("string"), sentence=datasets.Value("string"), label=names)
    columns = {"question": WORDS, "sentence": WORDS[::-1], "label": [0, 1, 1, 0]}
    splits = {split: datasets.Dataset.from_dict(columns, features) for split in ("train", "validation")}
    splits["test"] = datasets.Dataset.from_dict({**columns, "label": [-1] * 4}, features)
    datasets.DatasetDict(splits).save_to_disk(str(root / "qnli"))
    write(root / "CoLA/test.tsv", "index\tsentence", rows("{i}\t{a}", (), 5))
    write(root / "STS-B/test.tsv", "index\tgenre\tsentence1\tsentence2", rows("{i}\tx\t{a}\t{b}", (), 5))
    write(root / "MNLI/test_matched.tsv", "index\tsentence1\tsentence2", rows("{i}\t{a}\t{b}", (), 5))
    write(root / "diagnostic/diagnostic-full.tsv", "Premise\tHypothesis\tLabel", ["it is\tthey say\tneutral"])
    write(root / "diagnostic/diagnostic.tsv", "index\tsentence1\tsentence2", rows("{i}\t{a}\t{b}", (), 3))
    return root


ENTAILMENT = ("entailment", "not_entailment")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = text_encoder(vocab_size=len(TOKENIZER), width=8, depth=1, num_heads=1, max_positions=32)
    encoder.assets = {"tokenizer.json": TOKENIZER.to_json()}
    return save_checkpoint(encoder, tmp_path / "encoder.ckpt")


def make(root: Path, task: str, tmp_path: Path, **values: Any) -> GlueDataModule:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    return GlueDataModule(
        str(root), task, **{"tokenizer": str(tmp_path / "tokenizer.json"), "num_workers": 0, **values}
    )


@pytest.mark.parametrize(
    ("task", "first", "label", "classes"),
    [
        ("cola", "it is</s>", "1", ("0", "1")),
        ("sst2", "it is</s>", "1", ("0", "1")),
        ("mrpc", "it is</s></s>they say</s>", "1", ("0", "1")),
        ("stsb", "it is</s></s>they say</s>", 5.0, ()),
        ("qqp", "it is</s></s>they say</s>", "0", ("0", "1")),
        ("mnli", "it is</s></s>they say</s>", "neutral", ("entailment", "neutral", "contradiction")),
        ("qnli", "it is</s></s>it is not</s>", "entailment", ENTAILMENT),
        ("rte", "it is</s></s>they say</s>", "entailment", ENTAILMENT),
        ("wnli", "it is</s></s>they say</s>", "0", ("0", "1")),
    ],
)
@pytest.mark.filterwarnings("ignore:data. left out 1 of 9 rows")
def test_every_task_is_read(glue: Path, tmp_path: Path, task: str, first: str, label: Any, classes: Any) -> None:
    data = make(glue, task, tmp_path)
    data.setup("fit")
    assert data.class_names == classes
    sample = data.train_dataset()[(0, 0)]
    assert TOKENIZER.decode(sample.inputs) == f"<s>{first}"
    assert isinstance(sample.label, torch.Tensor)
    assert (classes[int(sample.label)] if classes else float(sample.label)) == label
    val = data.eval_dataset("val")
    assert val is not None
    assert len(val) == (4 if task == "qnli" else 8)
    assert data.skipped == (2 if task == "qqp" else 0), "a row of QQP lacks its cells"


def test_quotes_are_text(glue: Path, tmp_path: Path) -> None:
    data = make(glue, "cola", tmp_path)
    assert TOKENIZER.decode(data.train_dataset()[(0, 2)].inputs) == '<s>"what" is it</s>'


def test_other_splits_and_test_sets(glue: Path, tmp_path: Path) -> None:
    assert make(glue, "mnli", tmp_path, val_split="dev_mismatched").splits["val"].places[0] == "dev_mismatched.tsv:2"
    assert len(make(glue, "mnli", tmp_path, predict_on="diagnostic").predict_dataset()) == 3
    test = make(glue, "qnli", tmp_path, predict_on="test").predict_dataset()
    assert [test[(0, i)].label for i in range(4)] == [None] * 4, "Hugging Face numbers them -1"
    assert len(make(glue / "CoLA", "cola", tmp_path, predict_on="test").predict_dataset()) == 5


def test_bad_input_is_named(glue: Path, tmp_path: Path) -> None:
    def message(pattern: str, root: Path = glue, task: str = "cola", **values: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            make(root, task, tmp_path, **values).setup("fit")

    message(r"data\.task is ax: it must be one of cola, sst2", task="ax")
    message(r"data\.val_split is dev: of mnli it must be dev_matched or dev_mismatched", task="mnli", val_split="dev")
    message(r"data\.predict_on is train: of cola it must be val or test", predict_on="train")
    message(r"data\.root .*: has no folder CoLA for data\.task cola", tmp_path)
    (tmp_path / "RTE").mkdir()
    message(r"data\.root .*RTE: has no train\.tsv", tmp_path, "rte")
    write(tmp_path / "RTE/train.tsv", "sentence1\tsentence2\tlabel", rows("{a}\t{b}\t{y}", ("maybe",), 12))
    message(
        r"no usable row: train\.tsv:2 has the label 'maybe'; those of rte are entailment not_entailment",
        tmp_path,
        "rte",
    )


def test_what_is_handed_in() -> None:
    assert submission(["entailment", "neutral"], TASKS["mnli"]) == "index\tprediction\n0\tentailment\n1\tneutral\n"
    assert submission(["5.2", "-0.1", "2.25"], TASKS["stsb"]) == "index\tprediction\n0\t5.000\n1\t0.000\n2\t2.250\n"


def last_checkpoint(run: str) -> Path:
    return Path("out/runs") / run / "checkpoints/last.ckpt"


def run(task: str, lr: float, seed: int, *scores: dict[str, float]) -> GlueRun:
    return GlueRun(task, lr, seed, f"{task}-{lr:g}-{seed}", dict(zip(TASKS[task].dev_splits, scores, strict=True)))


def test_the_average_is_glues(tmp_path: Path) -> None:
    """Metrics of a task are averaged, MNLI is the mean of both, WNLI does not count, the rate is the best by seeds."""
    runs = [
        run("cola", 1e-5, 1, {"matthews": 0.9}),
        run("cola", 1e-5, 2, {"matthews": 0.1}),
        run("cola", 2e-5, 1, {"matthews": 0.6}),
        run("cola", 2e-5, 2, {"matthews": 0.6}),
        run("mrpc", 1e-5, 1, {"accuracy": 0.8, "f1": 0.9}),
        run("mnli", 1e-5, 1, {"accuracy": 0.8}, {"accuracy": 0.7}),
        run("wnli", 1e-5, 1, {"accuracy": 0.1}),
    ]
    lines = table(runs, ["cola", "mrpc", "mnli", "wnli"]).splitlines()
    cells = [re.split(r"\s{2,}", line) for line in lines]
    assert cells[1] == ["CoLA", "matthews", "60.00", "60.00 ± 0.00", "2e-05", "2"]
    assert cells[2] == ["MRPC", "accuracy / f1", "80.00 / 90.00", "85.00", "1e-05", "1"]
    assert cells[3] == ["MNLI", "accuracy matched / accuracy mismatched", "80.00 / 70.00", "75.00", "1e-05", "1"]
    assert cells[4][0] == "WNLI"
    assert lines[5].startswith(f"average over 3 tasks: {(60 + 85 + 75) / 3:.2f} (WNLI never counts; GLUE's is over 8")

    checkpoint = tmp_path / "a.ckpt"
    checkpoint.touch()
    results = GlueResults.open(tmp_path / "out", checkpoint, tmp_path, ["a=1"])
    results.runs += runs
    results.save()
    assert GlueResults.open(tmp_path / "out", checkpoint, tmp_path, ["a=1"]).runs == runs
    assert json.loads(results.file.read_text())["average"] == pytest.approx((0.6 + 0.85 + 0.75) / 3)
    with pytest.raises(UserError, match=r"results\.json there is of another settings \(\['a=1'\], and now \[\]\)"):
        GlueResults.open(tmp_path / "out", checkpoint, tmp_path, [])
    results.file.write_text("{")
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        GlueResults.open(tmp_path / "out", checkpoint, tmp_path, [])


def test_results_are_of_one_encoder_from_the_first_step_on(tmp_path: Path) -> None:
    one, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    one.touch()
    other.touch()
    GlueResults.open(tmp_path / "out", one, tmp_path, []).save()
    GlueResults.open(tmp_path / "out", one, tmp_path, ["a=1"])  # nothing had been started
    (tmp_path / "out/runs/cola-lr1e-05-seed1").mkdir(parents=True)
    GlueResults.open(tmp_path / "out", one, tmp_path, [])
    with pytest.raises(UserError, match=r"results\.json there is of another checkpoint"):
        GlueResults.open(tmp_path / "out", other, tmp_path, [])


def test_a_run_that_diverged_is_never_the_best(tmp_path: Path) -> None:
    nan = float("nan")
    runs = [
        run("stsb", 1e-5, 1, {"pearson": nan, "spearman": nan}),
        run("stsb", 2e-5, 1, {"pearson": 0.2, "spearman": 0.1}),
        run("stsb", 2e-5, 2, {"pearson": 0.4, "spearman": 0.3}),
        run("cola", 1e-5, 1, {"matthews": nan}),
        run("cola", 1e-5, 2, {"matthews": 0.5}),
    ]
    assert best_runs(runs, "stsb") == runs[1:3]
    assert best_of(runs, "stsb") == runs[2]
    assert best_of(runs, "cola") == runs[4]
    lines = table(runs, ["cola", "stsb"]).splitlines()
    assert re.split(r"\s{2,}", lines[1]) == ["CoLA", "matthews", "nan", "nan", "1e-05", "2"]
    results = GlueResults.open(tmp_path / "out", tmp_path / "a.ckpt", tmp_path, [])
    results.runs += runs
    results.save()
    content = json.loads(results.file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["runs"][0]["scores"]["dev"] == {"pearson": None, "spearman": None}
    again = GlueResults.open(tmp_path / "out", tmp_path / "a.ckpt", tmp_path, [])
    assert again.runs[1:3] == runs[1:3]
    assert best_runs(again.runs, "stsb") == runs[1:3]


def test_there_is_a_recipe_for_every_task() -> None:
    assert {path.stem for path in (SHIPPED / "finetune/glue").glob("*.yaml")} == set(TASKS)


@pytest.mark.filterwarnings("ignore:data. left out 1 of 9 rows")
def test_the_command(d2v: D2V, glue: Path, checkpoint: Path) -> None:
    """All recipes, two steps each; again, and with another learning rate, only what is new."""
    sets = ["trainer.max_epochs=-1", "trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.precision=32"]
    sets += ["data.max_length=32", "data.num_workers=0", "trainer.enable_progress_bar=false"]
    options = ["glue", "--checkpoint", checkpoint, "--root", glue, "--output", "out", "--set", *sets]
    code, out, err = d2v(*options, "--lr", "1e-3")
    assert code == 0, err
    assert "GLUE: 9 runs, 0 of them done already" in out
    found = json.loads(Path("out/results.json").read_text())
    assert list(found["tasks"]) == list(TASKS)
    assert set(found["runs"][5]["scores"]) == {"dev_matched", "dev_mismatched"}
    assert {run["folder"] for run in found["runs"]} == {path.name for path in Path("out/runs").iterdir()}
    average = re.search(r"average over 8 tasks: (-?[\d.]+) \(WNLI never counts\)", out)
    assert average
    assert float(average[1]) == pytest.approx(100 * found["average"], abs=0.01)
    assert sorted(path.name for path in Path("out/submission").iterdir()) == [
        "AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "QNLI.tsv", "STS-B.tsv",
    ]  # fmt: skip
    with Path("out/submission/MNLI-m.tsv").open() as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert [line["index"] for line in lines] == list("01234")
    assert {line["prediction"] for line in lines} <= set(TASKS["mnli"].labels)

    with Path("out/runs/cola-lr0.001-seed1/metrics.csv").open() as file:
        assert {"train/loss", "train/lr", "val/matthews"} <= set(next(csv.reader(file)))
    again = ["--config", "out/runs/mnli-lr0.001-seed1/config.yaml", "--ckpt_path", "out/runs/mnli-lr0.001-seed1"]
    code, out, err = d2v("predict", *again, "--data.root", glue, "--data.val_split", "dev_mismatched")
    assert code == 0, err
    (predicted,) = Path("out/runs").glob("*-predict/predictions.tsv") or Path("runs").glob("*/predictions.tsv")
    assert len(predicted.read_text().splitlines()) == 1 + 8

    Path("out/runs/cola-lr0.0001-seed1").mkdir()  # stopped before its first checkpoint
    code, out, err = d2v(*options, "--lr", "1e-3", "1e-4", "--tasks", "CoLA,wnli")
    assert code == 0, err
    left = {path.name for path in Path("out/runs").glob("cola-*")}
    assert left == {"cola-lr0.001-seed1", "cola-lr0.0001-seed1-2"}, "what it had left is gone"
    assert "GLUE: 4 runs, 2 of them done already" in out
    assert "run 1 of 2: cola, learning rate 0.0001, seed 1" in out
    found = json.loads(Path("out/results.json").read_text())
    lost = next(run for run in found["runs"] if run["task"] == "wnli" and last_checkpoint(run["folder"]).exists())
    Path("out/results.json").write_text(json.dumps({**found, "runs": [r for r in found["runs"] if r != lost]}))
    code, out, err = d2v(*options, "--lr", "1e-3", "1e-4", "--tasks", "wnli")
    assert code == 0, err
    assert "continuing from" in err, "what was stopped goes on"
    assert json.loads(Path("out/results.json").read_text())["runs"][-1]["scores"] == lost["scores"]
    kept = {path.parent.parent.name for path in Path("out/runs").glob("cola*/checkpoints/last.ckpt")}
    assert len(kept) == 1, "only the best run's weights"


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_of_epochs_resumes_exactly(d2v: D2V, glue: Path, checkpoint: Path, step: int) -> None:
    """In the middle of an epoch, and at the end of one, of four steps each."""
    options = ["fit", "--config", "finetune/glue/wnli.yaml", "--model.checkpoint", checkpoint, "--data.root", glue]
    options += ["--data.batch_size=2", "--data.global_batch_size=2", "--data.max_length=32", "--data.num_workers=0"]
    options += ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.precision=32"]
    options += ["--trainer.enable_progress_bar=false", "--checkpoint.every_n_train_steps=1", "--checkpoint.keep=-1"]
    for name, more in (("whole", []), ("resumed", ["--resume", f"runs/whole/checkpoints/step-{step}.ckpt"])):
        code, _, err = d2v(*options, *more, "--run_name", name)
        assert code == 0, err
    whole, resumed = (torch.load(f"runs/{name}/checkpoints/last.ckpt") for name in ("whole", "resumed"))
    assert whole["global_step"] == resumed["global_step"] == 8
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    assert whole["d2v"]["encoders"][""]["assets"]["tokenizer.json"] == TOKENIZER.to_json()


def test_the_command_refuses(d2v: D2V, glue: Path, checkpoint: Path, tmp_path: Path) -> None:
    def message(pattern: str, *more: str, root: Path = glue) -> None:
        code, _, err = d2v("glue", "--checkpoint", checkpoint, "--root", root, "--output", "out", *more)
        assert code == 2
        assert re.search(pattern, err), err

    message(r"--tasks: there is no task 'ax'", "--tasks", "ax")
    message(r"--set trainer\.devices=2: each run is on one device", "--set", "trainer.devices=2")
    message(r"--set data\.task=cola: `d2v glue` sets data\.task itself", "--set", "data.task=cola")
    message(r"--set foo: must be KEY=VALUE", "--set", "foo")
    message(r"--root .*: has none of the folders CoLA, SST-2", root=tmp_path)
    message(r"--root nowhere: no such folder", root=Path("nowhere"))
    message(r"data\.max_length is 512, and the encoder has 32 positions", "--tasks", "cola")
    assert not list(Path("out").rglob("*.ckpt"))
    (tmp_path / "glue/cola").mkdir(parents=True)
    message(r"--tasks rte: --root .* has no folder RTE", "--tasks", "rte", root=tmp_path / "glue")
