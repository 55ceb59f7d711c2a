"""A run that goes on is one run; `auto` takes the newest run of this config; two at once do not meet."""

import copy
import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml

from d2v import metrics
from d2v.commands import run_folder
from d2v.commands.resume import find_origin
from d2v.commands.run_folder import direct_logger, lock_run

D2V = Callable[..., tuple[int, str, str]]
REGULAR = [
    "--checkpoint.every_n_train_steps",
    "2",
    "--checkpoint.keep",
    "-1",
    "--trainer.check_val_every_n_epoch",
    "null",
]
REGULAR += ["--trainer.val_check_interval", "2"]


def rows(run: Path) -> list[dict[str, str]]:
    """Of metrics.csv, without what the clock measured and the number of Lightning's epoch."""
    with (run / "metrics.csv").open(newline="") as file:
        not_the_same = {"epoch", metrics.WAIT_FRACTION}
        return [
            {k: v for k, v in row.items() if "per_second" not in k and k not in not_the_same}
            for row in csv.DictReader(file)
        ]


def state(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


def test_a_run_that_goes_on_is_one_run(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    """Stopped after step 5, saved at 4: no step is written twice, and the folder is enough to go on."""
    whole, cut = tmp_path / "runs/whole", tmp_path / "runs/cut"
    code, _, err = d2v("fit", *tiny, *REGULAR, "--run_name", "whole", "--trainer.max_steps", "6")
    assert code == 0, err
    shutil.copytree(whole, cut, symlinks=True)
    for name in ("step-5.ckpt", "step-6.ckpt", "last.ckpt"):
        (cut / "checkpoints" / name).unlink(missing_ok=True)
    (cut / "checkpoints/last.ckpt").symlink_to("step-4.ckpt")
    (cut / "metrics.csv").write_text("".join((whole / "metrics.csv").read_text().splitlines(keepends=True)[:-2]))

    code, _, err = d2v("fit", "--resume", "runs/cut")
    assert code == 0, err
    assert "continuing from runs/cut/checkpoints/last.ckpt" in err
    assert rows(cut) == rows(whole)
    assert all(torch.equal(value, state(whole)[key]) for key, value in state(cut).items())
    names = {path.name for path in cut.iterdir()}
    assert names == {".lock", "checkpoints", "config.yaml", "history.jsonl", "metrics.csv"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"whole", "cut"}

    before = (cut / "metrics.csv").read_bytes()
    code, _, err = d2v("fit", "--resume", "runs/cut")
    assert code == 0
    assert "nothing to train: runs/cut/checkpoints/last.ckpt has its 6 steps already" in err
    assert (cut / "metrics.csv").read_bytes() == before

    # Keys on top win; the config that has trained so far stays. From an older checkpoint, later rows go.
    older = ["--resume", "runs/cut/checkpoints/step-2.ckpt"]
    code, _, err = d2v("fit", *older, "--model.optimizer.lr", "0.5", "--trainer.max_steps", "3")
    assert code == 0, err
    assert [row["step"] for row in rows(cut) if row["train/loss"]] == ["0", "1", "2"]
    old, new = (yaml.safe_load((cut / name).read_text()) for name in ("config-until-2.yaml", "config.yaml"))
    assert new["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    assert old == yaml.safe_load((whole / "config.yaml").read_text())

    # Another name is another run that begins there.
    before = (cut / "metrics.csv").read_bytes()
    code, _, err = d2v("fit", *older, "--run_name", "branch", "--trainer.max_steps", "3")
    assert code == 0, err
    assert (tmp_path / "runs/branch/config.yaml").read_text().startswith("# continued from runs/cut/checkpoints/step-2")
    assert [row["step"] for row in rows(tmp_path / "runs/branch") if row["train/loss"]] == ["2"]
    assert (cut / "metrics.csv").read_bytes() == before


def test_auto_takes_the_newest_run_of_this_config(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    """And starts one where there is none: so the same command can be given again and again."""
    again = ["fit", *tiny, "--resume", "auto", "--checkpoint.every_n_train_steps", "2"]
    code, _, err = d2v(*again)
    assert code == 0, err
    assert "--resume auto: no run of this config under runs: starting from the beginning" in err
    (first,) = (tmp_path / "runs").iterdir()
    assert d2v("fit", *tiny, "--trainer.fast_dev_run", "true")[0] == 0
    assert list((tmp_path / "runs").iterdir()) == [first], "a trial keeps nothing"

    code, _, err = d2v(*again, "--trainer.max_steps", "4", "--data.num_workers", "0", "--checkpoint.keep", "2")
    assert code == 0, err
    assert f"continuing from runs/{first.name}/checkpoints/last.ckpt" in err

    # Neither the newer ones of other experiments lead it astray, nor those of another name.
    config = yaml.safe_load((first / "config.yaml").read_text())
    for name, keys, value in (
        ("deep", "model.init_args.student.init_args.trunk.init_args.depth", 3),
        ("fast", "model.init_args.optimizer.init_args.lr", 0.25),
        ("other", "data.init_args.root", "elsewhere"),
        ("seed", "seed_everything", 5),
    ):
        changed = copy.deepcopy(config)
        *path, last = keys.split(".")
        section = changed
        for key in path:
            section = section.get(key, section)
        section[last] = value
        run = tmp_path / "runs" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(changed))
        shutil.copy(first / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt")

    def found(name: str | None, config: dict[str, Any]) -> Path | None:
        origin = find_origin("auto", tmp_path / "runs", name, yaml.safe_dump(config))
        return None if origin is None else origin.run

    assert found(None, config) == first
    # Of a name that the user gives, another rate is the user's wish, and another network another run.
    assert found("fast", config) == tmp_path / "runs/fast"
    assert found("deep", config) is None
    config["seed_everything"] = 6
    assert found(None, config) is None


def test_two_processes_do_not_train_in_one_folder(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert d2v("fit", *tiny, "--run_name", "a")[0] == 0
    monkeypatch.setattr(run_folder, "_PATIENCE", 0)
    lock = lock_run(tmp_path / "runs/a")
    before = (tmp_path / "runs/a/metrics.csv").read_bytes()
    code, _, err = d2v("fit", "--resume", "runs/a", "--trainer.max_steps", "5")
    assert code == 2
    assert "runs/a: another process is training in it; wait until it ends, or give --run_name" in err
    assert (tmp_path / "runs/a/metrics.csv").read_bytes() == before
    lock.release()
    assert d2v("fit", "--resume", "runs/a", "--trainer.max_steps", "5")[0] == 0


def test_loggers_go_on_under_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for steps_done in (0, 4):
        init_args = jsonargparse.Namespace(project="d2v", offline=False)
        wandb = jsonargparse.Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=init_args)
        direct_logger(wandb, tmp_path, steps_done)
        ids.append(wandb.init_args.id)
        init_args = jsonargparse.Namespace(purge_step=None)
        board = jsonargparse.Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=init_args)
        direct_logger(board, tmp_path, steps_done)
        assert (init_args.version, init_args.purge_step) == ("tensorboard", steps_done + 1 if steps_done else None)
    assert ids[0] == ids[1]


def test_what_is_read_is_not_written_to(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    """`test`, `validate` and `predict` make a folder beside the run, named after it, and say where it is."""
    assert d2v("fit", *tiny, "--run_name", "a")[0] == 0
    run = tmp_path / "runs/a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for command, output in (("validate", "metrics.csv"), ("test", "metrics.csv"), ("predict", "features.npz")):
        code, _, err = d2v(command, *tiny, "--ckpt_path", "runs/a")
        assert code == 0, err
        assert err.strip().splitlines()[-1].endswith(f"runs/a-{command}/{output}")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_time_bounds_a_run(d2v: D2V, tiny: list[str], tmp_path: Path) -> None:
    steps = ["--trainer.max_steps", "-1", "--run_name", "a"]
    assert d2v("fit", *tiny, *steps)[0] == 2
    code, _, err = d2v("fit", *tiny, *steps, "--trainer.max_time", "00:00:00:01")
    assert code == 0, err
    assert (tmp_path / "runs/a/checkpoints/last.ckpt").is_file()


def damage_file(path: Path, how: str) -> None:
    content = bytearray(path.resolve().read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "emptied":
        content = bytearray()
    elif how == "zeroed":
        content = bytearray(len(content))
    elif how == "flipped":  # one bit of the first weight
        weights = torch.load(path, weights_only=True)["state_dict"]
        first = max(weights.values(), key=torch.numel).numpy().tobytes()
        content[content.index(first) + 3] ^= 0x40
    path.resolve().write_bytes(content)
    if how == "removed":
        path.resolve().unlink()


@pytest.mark.parametrize("how", ["cut", "emptied", "zeroed", "flipped", "removed"])
def test_the_checkpoint_before_a_damaged_one_is_taken(d2v: D2V, tiny: list[str], tmp_path: Path, how: str) -> None:
    again = ["fit", *tiny, "--resume", "auto", "--checkpoint.every_n_train_steps", "2", "--trainer.max_steps", "5"]
    assert d2v(*again)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    whole = state(run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "step-4.ckpt", "step-5.ckpt"}
    damage_file(run / "checkpoints/last.ckpt", how)

    code, _, err = d2v("fit", *tiny, "--resume", f"runs/{run.name}/checkpoints/last.ckpt")
    assert code == 2
    assert f"--resume runs/{run.name}/checkpoints/last.ckpt: is damaged (" in err
    assert f"beside it is --resume runs/{run.name}/checkpoints/step-4.ckpt" in err

    code, _, err = d2v(*again)
    assert code == 0, err
    assert err.count("is damaged (") == 1
    assert f"the one before it is taken, runs/{run.name}/checkpoints/step-4.ckpt" in err
    assert all(torch.equal(value, whole[key]) for key, value in state(run).items())

    if how != "removed":  # without any checkpoint there is nothing to lose
        for path in (run / "checkpoints").glob("step-*.ckpt"):
            damage_file(path, how)
        code, _, err = d2v(*again)
        assert code == 2
        assert "and there is no other; start a new run" in err


def test_a_job_that_is_started_again_goes_on(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same command; another command of the same job does not, nor another job."""
    command = ["fit", *tiny, "--checkpoint.every_n_train_steps", "2", "--trainer.max_steps", "4"]
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert d2v(*command, "--run_name", "a")[0] == 0
    assert d2v(*command, "--run_name", "b")[0] == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b"}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, _, err = d2v(*command, "--run_name", "c", "--seed_everything", "7")
    assert code == 0, err
    assert (tmp_path / "runs/c").is_dir()
    code, _, err = d2v(*command[:-1], "6")
    assert code == 0, err
    assert "this job was started again: runs/b goes on" in err
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b", "c"}
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert d2v(*command, "--run_name", "d")[0] == 0
    assert (tmp_path / "runs/d").is_dir()
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert d2v(*command, "--run_name", "e")[0] == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    code, _, err = d2v(*command[:-1], "6")
    assert code == 0, err
    assert "this job was started again: runs/e goes on" in err
