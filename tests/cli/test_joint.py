"""A joint run as a user has it: one checkpoint with an encoder for each medium, and every command that reads one."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from joint_data import SIZES, write_media, write_overlay
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import Dataset
from torchvision.transforms import v2

import d2v as package
from d2v.cli import main
from d2v.errors import UserError
from d2v.joint_configs import merged_configs

RECIPE = ("--config", "demo/joint.yaml", "--config")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an overlay and a run of five steps, which was saved after the third, too."""
    folder = tmp_path_factory.mktemp("joint")
    overlay = write_overlay(folder / "tiny.yaml", write_media(folder / "data"))
    probe = "{class_path: d2v.training.callbacks.probe.ProbeCallback, init_args: {every_n_steps: 2, linear: false, "
    probe += f"data: {{vision: null, speech: {folder / 'data' / 'sound'}}}}}}}"
    (folder / "probe.yaml").write_text(f"trainer: {{callbacks: [{probe}]}}")
    words = ["fit", *RECIPE, overlay, "--config", folder / "probe.yaml", "--run_name", "run", "--trainer.max_steps", 5]
    words += ["--checkpoint.every_n_train_steps", 3, "--checkpoint.keep", -1]
    words += ["--checkpoint.monitor", "probe/knn_top1/speech", "--checkpoint.mode", "max"]
    words += ["--data.parts.vision.val_split", "null", "--model.media.text.weight", 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(list(map(str, words))) == 0
    return folder


def test_each_command_reads_one_of_the_encoders(d2v: D2V, place: Path) -> None:  # noqa: F811
    run, sound = place / "runs" / "run", place / "data" / "sound"
    code, _, err = d2v("embed", "--checkpoint", run, "--input", sound, "--output", "e.npz")
    assert code == 2
    assert "holds several encoders; say which as modality: vision, speech, text" in err
    code, _, err = d2v("export", "--checkpoint", run, "--modality", "speach", "--format", "hf", "--output", "a")
    assert code == 2
    assert "modality='speach' is not there; it holds vision, speech, text" in err
    words = ("--modality", "speech", "--weights", "teacher", "--num_workers", 0, "--input", sound / "val")
    assert d2v("embed", "--checkpoint", run, *words, "--output", "e.npz")[0] == 0
    vectors = np.load("e.npz")["embedding"]
    code, out, _ = d2v("search", "e.npz", "--query", sound / "val" / "a" / "000.wav", "--checkpoint", run)
    assert (code, "a/000.wav" in out) == (0, True)
    for given in (("--checkpoint", run), ("--checkpoint", "random", *RECIPE, place / "tiny.yaml")):
        code, out, err = d2v("probe", *given, "--modality", "vision", "--max_samples", 4, "--output", "pictures")
        assert (code, "kNN top-1 %" in out) == (0, True), err
        assert ("curves.png" in out) == (run in given)
        assert "masks.png" in out
    code, _, err = d2v("probe", "--checkpoint", "random", *RECIPE, place / "tiny.yaml")
    assert (code, "say which: --modality NAME, one of vision, speech, text" in err) == (2, True)
    code, _, err = d2v("probe", "--checkpoint", "random", *RECIPE, place / "tiny.yaml", "--modality", "sensors")
    assert (code, "has no such medium; it has vision, speech, text" in err) == (2, True)
    left_out = ("--media.text", "null", "--modality", "text")
    for command in (("probe", "--checkpoint", "random"), ("bench", "data")):
        code, _, err = d2v(*command, *RECIPE, place / "tiny.yaml", *left_out)
        assert (code, "has no such medium; it has vision, speech\n" in err) == (2, True)

    assert (
        d2v("export", "--checkpoint", run, "--modality", "speech", "--format", "safetensors", "--output", "one")[0] == 0
    )
    assert package.load("one").recipe == package.load(run, modality="speech").recipe
    assert d2v("embed", "--checkpoint", "one", *words, "--output", "f.npz")[0] == 0
    assert np.array_equal(vectors, np.load("f.npz")["embedding"])
    assert {name.partition(".")[0] for name in load_file("one/model.safetensors")} == {"student", "teacher", "task"}
    assert '"masking"' in Path("one/config.json").read_text()  # from the run's config
    assert d2v("export", "--checkpoint", run, "--modality", "vision", "--format", "hf", "--output", "two")[0] == 0


def test_fine_tuning_and_pretraining_go_on_from_it(d2v: D2V, place: Path) -> None:  # noqa: F811
    words = ["fit", "--config", "finetune/clips.yaml", "--model.checkpoint", place / "runs" / "run", "--data.root"]
    words += [place / "data" / "sound", "--trainer.accelerator", "cpu", "--trainer.precision", "32", "--length", "null"]
    words += ["--trainer.max_steps", "1", "--trainer.enable_progress_bar", "false", "--run_name", "clips"]
    code, _, err = d2v(*words)
    assert (code, "say which as model.modality: vision, speech, text" in err) == (2, True)
    assert d2v(*words, "--model.modality", "speech")[0] == 0
    assert package.load("runs/clips").width == 16
    for split in ("train", "dev"):
        rows = Path("glue") / "SST-2" / f"{split}.tsv"
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.write_text("sentence\tlabel\n" + "cold tea\t1\nold house\t0\n" * 4)
    settings = ["trainer.max_epochs=-1", "trainer.max_steps=1", "trainer.accelerator=cpu", "trainer.precision=32"]
    settings += ["data.max_length=8", "data.num_workers=0", "trainer.enable_progress_bar=false"]
    words = ["glue", "--checkpoint", place / "runs" / "run", "--root", "glue", "--output", "out", "--lr", "1e-3"]
    code, out, err = d2v(*words, "--modality", "text", "--set", *settings)
    assert (code, "SST-2  accuracy" in out) == (0, True), err
    fewer = ("fit", *RECIPE, place / "tiny.yaml", "--trainer.max_steps", 1, "--media.text", "null")
    code, _, err = d2v(*fewer, "--ckpt_path", place / "runs" / "run")
    assert code == 2
    assert "has the encoders 'vision', 'speech', 'text', and this config 'vision', 'speech'" in err
    code, _, err = d2v(*fewer, "--model.init_from", place / "runs" / "run", "--run_name", "fewer")
    assert (code, "JointPretraining of vision, speech: " in err) == (0, True)
    assert "media: vision (demo/vision.yaml), speech (demo/speech.yaml), text (left out)" in err
    code, _, err = d2v("fit", "--resume", place / "runs" / "run", "--media.text", "null")
    assert (code, "--media.text: a run that goes on keeps its media" in err) == (2, True)


def test_a_joint_run_goes_on_bit_for_bit(d2v: D2V, place: Path) -> None:  # noqa: F811
    run = place / "runs" / "run"
    code, _, err = d2v("fit", "--resume", run / "checkpoints" / "step-3.ckpt", "--run_name", "again")
    assert (code, "media:" in err) == (0, False)
    whole, again = (torch.load(folder / "checkpoints/last.ckpt") for folder in (run, Path("runs/again")))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name]), name


def test_a_joint_run_logs_each_medium(d2v: D2V, place: Path) -> None:  # noqa: F811
    run = place / "runs" / "run"
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("probe/knn_top1/vision", "probe/knn_top1/speech", "train/target_std/text", "val/loss/speech"):
        assert name in header
    assert (run / "checkpoints" / "best.ckpt").is_file()  # by the monitor of one of them
    code, _, err = d2v("predict", "--config", run / "config.yaml", "--ckpt_path", run)
    assert code == 0, err
    features = np.load("runs/run-predict/features.npz")
    assert features["features/speech"].shape == (4, 16)
    words = ("validate", "--config", run / "config.yaml", "--ckpt_path", run)
    code, _, err = d2v(*words)
    assert (code, "there is no validation split, so text is left out" in err) == (0, True)
    assert re.search(r"\nloss/vision [\d.]+, loss/speech [\d.]+\n", err)
    words += ("--data.parts.speech.root", place / "data" / "sound" / "train")
    code, _, err = d2v(*words, "--data.parts.vision.root", place / "data" / "pictures" / "train")
    assert (code, "data.parts: none has a validation split" in err) == (2, True)


def test_a_joint_recipe_is_timed(d2v: D2V, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("d2v.bench.steps._CEILING_SECONDS", 0.02)
    code, out, err = d2v("bench", *RECIPE, place / "tiny.yaml", "--steps", 1)
    assert code == 0, err
    for unit in ("images", "audio seconds", "tokens"):
        assert f" {unit} a second" in out
    code, out, err = d2v("bench", *RECIPE, place / "tiny.yaml", "--steps", 1, "--media.speech", "null")
    assert (code, "audio seconds" in out) == (0, False), err
    code, _, err = d2v("bench", *RECIPE, place / "tiny.yaml", "--batch_size", 1)
    assert (code, "each medium has its own" in err) == (2, True)
    words = ("bench", "data", *RECIPE, place / "tiny.yaml", "--modality", "vision", "--seconds", "0.05")
    assert d2v(*words)[0] == 0


class OwnPictures(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (24, 20), (20 * index, 0, 0)), index % 2


def test_python_gives_data_for_each_medium(place: Path, tmp_path: Path) -> None:
    recipe = ["demo/joint.yaml", place / "tiny.yaml"]
    roots = {"vision": place / "data" / "pictures", "speech": str(place / "data" / "sound")}
    encoders = package.pretrain(roots, tmp_path / "run", recipe, max_steps=1, **{"media.text": None})
    assert list(encoders) == ["vision", "speech"]
    objects = {"media.text": None, "media.more": "demo/vision.yaml", "data.parts.more.transform": v2.Resize((16, 16))}
    objects |= {"model.media.more": SIZES["media"]["vision"], "data.parts.more.image_size": 16}
    roots |= {"vision": OwnPictures(), "more": {"train": OwnPictures(), "test": OwnPictures()}}
    trained = package.pretrain(
        roots, tmp_path / "own", recipe, val_data={"vision": OwnPictures()}, max_steps=1, **objects
    )
    assert list(trained) == ["vision", "speech", "more"]
    assert "val/loss/vision" in (tmp_path / "own" / "metrics.csv").read_text()
    with pytest.raises(UserError, match=r'a data set for each, {"vision": \.\.\., "speech": '):
        package.pretrain(tmp_path, tmp_path / "other", recipe)
    assert list(package.from_recipe("demo/joint.yaml").encoders) == ["vision", "speech", "text"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--media.speach null", "media.speach: there is no such medium, and .* did you mean speech"),
        ("--media.speach v2/speech.yaml", "media.speach: there is speech already, .* did you mean --media.speech"),
        ("--model.media.visoin.weight 0", "media.visoin: there is no such medium, .* did you mean vision"),
        ("--media.speech hardware/1gpu.yaml", "media.speech: hardware/1gpu.yaml is no recipe"),
        ("--media.text null --data.parts.text.batch_size 64", "--data.parts.text.batch_size: media.text is left out"),
        ("--data.parts.text null", "--data.parts.text null: a medium is left out as a whole: --media.text null"),
        ("--media.vision null --media.speech null --media.text null", "needs media"),
        ("--config v2/sizes/large.yaml", r"or give it to that medium: --media.NAME '\[v2/vision.yaml, "),
        ("--data.parts.speech.root ./none", "data.parts.speech.root ./none does not exist"),
        ("--data.parts.vision.batch_size 0", "data.parts.vision.batch_size is 0: it must be at least 1"),
        ("--data.parts.vision.colour 4", "data.parts.vision.colour: ImageNetDataModule has no such key"),
        ("--model.media.vision.front.patch_size 5", "model.media.vision.front: image_size 16 does not divide"),
        ("--model.media.vision.front.patch_size x", "model.media.vision.front.patch_size: expected a whole number"),
        (
            "--model.media.speech.masking.span 60 --data.parts.text.block_size 128 --data.parts.text.batch_size 128",
            r"model\.media\.speech\.masking\.span is 60, and the longest sample has \d+ tokens",  # texts have more
        ),
        ("--model.media.vision.wieght 0", "model.media.vision.wieght: Medium has no such key; did you mean weight"),
    ],
)
def test_messages_name_the_medium(d2v: D2V, place: Path, words: str, message: str) -> None:  # noqa: F811
    code, _, err = d2v("fit", *RECIPE, place / "tiny.yaml", *words.split())
    assert code == 2
    assert re.search(message, err), err


def test_configs_of_one_medium(tmp_path: Path) -> None:
    """Overlays may state media without the section, leave one out, or take a recipe with an overlay of its own."""
    (tmp_path / "larger.yaml").write_text("model: {init_args: {num_masks: 7}}")
    (tmp_path / "mine.yaml").write_text(
        "media: {text: null, more: [demo/vision.yaml, larger.yaml]}\n"
        "model: {init_args: {media: {speech: {num_masks: 2}}}}\n"
        "data: {init_args: {parts: {more: {init_args: {root: here}}}}}\n"
    )
    names = ["demo/joint.yaml", tmp_path / "mine.yaml"]
    alone, more = merged_configs(["demo/vision.yaml"]), merged_configs(names, "more")
    model = more["model"]["init_args"]
    assert model["num_masks"] == 7
    assert model["masking"] == alone["model"]["init_args"]["masking"]
    assert model["student"]["front"] == alone["model"]["init_args"]["student"]["front"]
    assert model["student"]["trunk"]["width"] == 96  # the shared one
    assert more["data"]["init_args"] == {**alone["data"]["init_args"], "root": "here"}
    assert merged_configs(names, "speech")["model"]["init_args"]["num_masks"] == 2
    (tmp_path / "none.yaml").write_text("data: {init_args: {parts: {text: null}}}")
    with pytest.raises(UserError, match=r"data\.parts\.text is None: .* left out as a whole, media: {text: null}"):
        merged_configs(["demo/joint.yaml", tmp_path / "none.yaml"])
    with pytest.raises(UserError, match="it has vision, speech, more"):
        merged_configs(names, "text")
    assert merged_configs(["demo/vision.yaml"], "anything") == alone
