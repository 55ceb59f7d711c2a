"""A stranger's file ends with one message, exit code 2, and little memory and time; nothing in it is run."""

import io
import json
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command_line import D2V
from encoders import save_checkpoint, speech_encoder, text_encoder, vision_encoder
from hostile_files import (
    GB,
    equal_rows,
    escaping_tar,
    flac,
    gif,
    laughs,
    long_texts,
    lying_tar,
    npz,
    png,
    safetensors,
    safetensors_of,
    tiff,
    wav,
    zeros,
)  # fmt: skip
from PIL import Image

from d2v.data.unpacking import require_plausible
from d2v.errors import UserError
from d2v.modalities.text.tokenizer import TextTokenizer
from d2v.modalities.text.tokenizer_patterns import why_not_run

# The longest of these tests, of five commands, takes 6 s on a quiet machine and 10 s on one that shares its cores;
# what is read or built without a bound takes minutes.
_MEMORY, _SECONDS = 2 << 30, 30.0


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """2 GB more than before, and 30 s of this process."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    before, start = resource.getrlimit(resource.RLIMIT_AS), time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < _SECONDS


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = TextTokenizer.train(["a few words of text"] * 9, vocab_size=260)
    text = text_encoder(vocab_size=len(tokenizer), width=16, depth=1, num_heads=2, max_positions=64)
    text.assets = {"tokenizer.json": tokenizer.to_json()}
    vision = vision_encoder(image_size=16, patch_size=4, width=16, depth=1, num_heads=2)
    speech = speech_encoder(width=16, depth=1, num_heads=2, extractor=[[8, 10, 5], [8, 8, 4]])
    made = {"text": text, "vision": vision, "speech": speech}
    return {name: save_checkpoint(encoder, folder / f"{name}.ckpt") for name, encoder in made.items()}


# A file of `d2v search`, and what the message says.
FEATURES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "6 GB of zeros": ("x.npz", lambda path: npz(path, 1_500_000, 1000, 6 * GB // 20), "unpack to 0.3 GB or more"),
    "a header of petabytes": ("x.npz", lambda path: npz(path, 10**12, 1000, 100), "Unable to allocate"),
    "20 million equal rows": ("x.parquet", lambda path: equal_rows(path, 20_000_000, 8, "embedding"), "unpack|cannot"),
    "a header of 2^60 bytes": ("x.safetensors", lambda path: safetensors(path, b"{}", 2**60), "header too large"),
    "offsets beyond the end": (
        "x.safetensors",
        lambda path: safetensors_of(path, {"embedding": (0, 4 * 10**12)}, [10**6, 10**6]),
        "not fully covered",
    ),
    "offsets that overlap": (
        "x.safetensors",
        lambda path: safetensors_of(path, {"embedding": (0, 64), "b": (0, 64)}, [4, 4]),
        "invalid offset",
    ),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features(d2v: D2V, tmp_path: Path, case: str) -> None:
    name, write, message = FEATURES[case]
    write(tmp_path / name)
    code, _, err = d2v("search", name, "--query", "a")
    refused(code, err, message)


# What `d2v embed` reads: the encoder, the file, and what the message says.
INPUTS: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "png of 60,000 x 60,000": ("vision", "x.png", lambda path: png(path, 60_000, 60_000), "decompression bomb"),
    "its pixels too": ("vision", "x.png", lambda path: png(path, 60_000, 60_000, 100), "decompression bomb"),
    "tiff of 60,000 x 60,000": ("vision", "x.tif", lambda path: tiff(path, 60_000, 60_000), "decompression bomb"),
    "gif of 65,535 x 65,535": ("vision", "x.gif", gif, "decompression bomb"),
    "tar of 2^62 bytes": ("vision", "x.tar", lambda path: lying_tar(path, 2**62), "cannot be read as an uncompressed"),
    "wav of rate 0": ("speech", "x.wav", lambda path: wav(path, rate=0), "not one of 1 files"),
    "wav of rate 1": ("speech", "x.wav", lambda path: wav(path, rate=1), "states 1 samples a second|not one of 1"),
    "wav of rate 2^31": ("speech", "x.wav", lambda path: wav(path, rate=2**31 - 1), "samples a second|not one of 1"),
    "wav of 65,535 channels": ("speech", "x.wav", lambda path: wav(path, channels=65_535), "not one of 1 files"),
    "flac of 2^36 samples": ("speech", "x.flac", lambda path: flac(path, 2**36 - 1), "header does not state its"),
    "flac of a day": ("speech", "x.flac", lambda path: flac(path, 16_000 * 86_400), "not one of 1 files"),
    "20 million equal texts": ("text", "x.parquet", lambda path: equal_rows(path, 20_000_000, 100), "unpack to"),
    "two texts of 0.14 GB": ("text", "x.parquet", lambda path: long_texts(path, 14 * GB // 100), "unpack to 0.3 GB"),
    "lines in gzip": ("text", "x.txt.gz", lambda path: zeros(path, GB // 2, 1024), "unpack to"),
    "one line in xz": ("text", "x.txt.xz", lambda path: zeros(path, GB // 2), "unpack to"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_of_an_encoder(d2v: D2V, tmp_path: Path, models: dict[str, Path], case: str) -> None:
    kind, name, write, message = INPUTS[case]
    write(tmp_path / name)
    code, _, err = d2v("embed", "--checkpoint", models[kind], "--input", name, "--output", "o.npz", "--num_workers", 0)
    refused(code, err, message)


def test_a_tar_is_read_and_never_unpacked(d2v: D2V, tmp_path: Path, models: dict[str, Path]) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (20, 20)).save(picture, "PNG")
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    escaping_tar(folder / "x.tar", picture.getvalue())
    options = ("--output", folder / "o.npz", "--num_workers", 0)
    code, out, err = d2v("embed", "--checkpoint", models["vision"], "--input", folder / "x.tar", *options)
    assert code == 0, err
    assert "3 pictures" in out + err  # without links, devices and pipes
    assert not list(tmp_path.rglob("escaped.png"))


def test_what_is_packed_well_and_honestly_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(3_000_000))
    require_plausible(file, 299_000_000)
    with pytest.raises(UserError, match=r"3\.0 MB that unpack to 0\.3 GB"):
        require_plausible(file, 301_000_000)


RECIPES = {
    "depth": ("vision", {"depth": 10**7}, {}, "more than 15,000 layers"),
    "width": ("vision", {"width": 10**9}, {}, "overflowed|take .* GB and more"),
    "half a terabyte": ("vision", {"width": 2**18}, {}, "the weights of the model take .* GB and more"),
    "prenet": ("vision", {}, {"prenet_depth": 10**7}, "more than 15,000 layers"),
    "pixels": ("vision", {}, {"image_size": 4 * 10**6}, "take .* GB and more"),
    "cls": ("vision", {}, {"num_cls": 10**12}, "take .* GB and more"),
    "kernel": ("speech", {}, {"position_kernel": 10**10 + 1}, "take .* GB and more"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_model_that_no_machine_holds(d2v: D2V, tmp_path: Path, models: dict[str, Path], case: str) -> None:
    kind, trunk, front, message = RECIPES[case]
    content = torch.load(models[kind], weights_only=True)
    recipe = content["d2v"]["encoders"][""]["recipe"]
    recipe["trunk"].update(trunk)
    recipe["front"]["init_args"].update(front)
    torch.save(content, "huge.ckpt")
    code, _, err = d2v("embed", "--checkpoint", "huge.ckpt", "--input", tmp_path, "--output", "o.npz")
    refused(code, err, message)


def test_a_config_that_asks_for_one(d2v: D2V, tiny: list[str]) -> None:
    code, _, err = d2v("fit", *tiny, "--model.head.num_layers", 10**7)
    refused(code, err, r"model\.head\.num_layers is 10000000: it must lie|more than 15,000 layers")


SLOW = ("(a+)+$", "(a|a)*$", "a*a*b", "(x+x+)+y", ".*.*=.*", r"(a*)*\1", "a?" * 30 + "a" * 30, "a{1,50}{1,50}", "a+b")
FAST = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+",  # Llama 3
    " {2,}",
    r"\p{N}{1,3}",
)


def test_expressions_of_tokenizers() -> None:
    for pattern in SLOW:
        assert why_not_run({"pre_tokenizer": {"pattern": {"Regex": pattern}}}), pattern
    for pattern in FAST:
        assert why_not_run({"pre_tokenizer": {"pattern": {"Regex": pattern}}}) is None, pattern
    assert why_not_run({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA/w=="}})


def test_a_tokenizer_that_would_never_end(d2v: D2V, tmp_path: Path, models: dict[str, Path]) -> None:
    content = torch.load(models["text"], weights_only=True)
    assets = content["d2v"]["encoders"][""]["assets"]
    tokenizer = json.loads(assets["tokenizer.json"])
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    assets["tokenizer.json"] = json.dumps(tokenizer)
    torch.save(content, "slow.ckpt")
    (tmp_path / "x.txt").write_text("a" * 5000 + "b\n")
    code, _, err = d2v("embed", "--checkpoint", "slow.ckpt", "--input", "x.txt", "--output", "o.npz")
    refused(code, err, "may take for ever")


RUN = "{class_path: subprocess.Popen, init_args: {args: [touch, ran]}}"
CONFIGS = {
    "head": (f"model: {{init_args: {{head: {RUN}}}}}", r"model\.head: subprocess\.Popen is no part"),
    "name alone": ("model: {init_args: {head: os.system}}", r"os\.system is no part"),
    "optimizer": (f"model: {{init_args: {{optimizer: {RUN}}}}}", "subprocess.Popen is no part"),
    "module that acts when imported": ("model: {init_args: {head: antigravity.x}}", "antigravity.x is no part"),
    "callback": (f"trainer: {{callbacks: [{RUN}]}}", r"trainer\.callbacks: subprocess"),
    "logger": (f"trainer: {{logger: [{RUN}]}}", r"trainer\.logger: subprocess"),
    "strategy": (f"trainer: {{strategy: {RUN}}}", r"trainer\.strategy: subprocess"),
    "profiler": (f"trainer: {{profiler: {RUN}}}", r"trainer\.profiler: subprocess"),
    "plugins": (f"trainer: {{plugins: [{RUN}]}}", r"trainer\.plugins: subprocess"),
    "function of a callback": (
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback, init_args: {on_fit_start: "
        "lightning.fabric.utilities.cloud_io._load}}]}",
        r"on_fit_start: lightning\.fabric\.utilities\.cloud_io\._load is no part",
    ),
    "loader of a data set": (
        "data: {init_args: {dataset: {class_path: torchvision.datasets.ImageFolder, init_args: {root: x, loader: "
        "torchvision.datasets.utils.extract_archive}}}}",
        r"loader: torchvision\.datasets\.utils\.extract_archive is no part",
    ),
    "function of ours": ("model: {init_args: {head: d2v.cli.main}}", r"model\.head: .*d2v\.cli\.main"),
    "tag": ("model: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
    "a billion laughs": (laughs(), "stands for more than 10,000 values"),
    "laughs of merges": (
        "data:\n  l0: &l0 {a: 1}\n"
        + "".join(f"  l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 10)}], b: 1}}\n" for n in range(1, 12)),
        "stands for more than 10,000 values",
    ),
    "itself": ("data: &a {init_args: *a}", "stands for more than 10,000 values"),
    "deep": ("trainer: " + "{a: " * 20_000 + "}" * 20_000, "nested too deeply"),
    "checkpoints elsewhere": (
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: "
        "/tmp/elsewhere}}]}",
        r"dirpath is /tmp/elsewhere: it leads out of",
    ),
    "a log elsewhere": (
        "trainer: {logger: [{class_path: CSVLogger, init_args: {save_dir: x, name: ../../y}}]}",
        r"trainer\.logger\.name is \.\./\.\./y: it leads out",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config(d2v: D2V, tiny: list[str], tmp_path: Path, case: str) -> None:
    content, message = CONFIGS[case]
    (tmp_path / "shared.yaml").write_text(content + "\n")
    loaded = set(sys.modules)
    code, _, err = d2v("fit", *tiny, "--config", "shared.yaml")
    refused(code, err, message)
    assert not (tmp_path / "ran").exists()
    assert "antigravity" not in set(sys.modules) - loaded


def test_only_the_command_line_leads_out_of_the_working_folder(
    d2v: D2V, tiny: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    saver = f"callbacks: [{{class_path: ModelCheckpoint, init_args: {{dirpath: {outside}}}}}]"
    Path("saver.yaml").write_text(f"trainer: {{{saver}}}\n")
    Path("root.yaml").write_text(f"trainer: {{default_root_dir: {outside}}}\n")
    Path("both.yaml").write_text(f"trainer: {{default_root_dir: {outside}, {saver}}}\n")
    for name, key in (("saver", "callbacks.dirpath"), ("root", "default_root_dir"), ("both", "default_root_dir")):
        options = ("--config", f"{name}.yaml", "--data.root", f"{outside}/pictures/..", "--run_name", "x")
        (outside / "pictures").mkdir(exist_ok=True)
        code, _, err = d2v("fit", *tiny, *options)
        refused(code, err, rf"trainer\.{key} is {outside}: it leads out")
    assert [path.name for path in outside.iterdir()] == ["pictures"]
    given = ("--trainer.default_root_dir", outside, "--run_name", "x")
    code, _, err = d2v("fit", *tiny, "--config", "saver.yaml", *given)
    assert code == 0, err
    assert (outside / "x/config.yaml").is_file()
    code, _, err = d2v("fit", "--resume", outside / "x", "--trainer.max_steps", 4)
    assert code == 0, err  # the run's own config leads there, too


def test_own_classes_in_a_file_that_a_config_names(d2v: D2V, tiny: list[str]) -> None:
    Path("own_callback.py").write_text("import lightning\n\n\nclass Own(lightning.Callback): ...\n")
    Path("parts").mkdir()
    Path("parts/callbacks.yaml").write_text("- class_path: own_callback.Own\n")
    Path("parts/shared.yaml").write_text("trainer: {callbacks: callbacks.yaml}\n")
    without = tiny[: tiny.index("--trainer.callbacks")] + tiny[tiny.index("--trainer.callbacks") + 2 :]
    for words in (("--config", "parts/shared.yaml"), ("--trainer.callbacks", "parts/callbacks.yaml")):
        code, out, err = d2v("fit", *without, *words, "--print_config")
        assert code == 0, err
        assert "own_callback.Own" in out


def test_a_file_that_a_config_names_is_judged_as_the_config_is(d2v: D2V, tiny: list[str]) -> None:
    Path("shared.yaml").write_text("trainer: {logger: loggers.yaml}\n")
    for content, message in (
        (f"- {RUN}", "subprocess.Popen is no part"),
        ("- {class_path: CSVLogger, init_args: {password: swordfish}}", "holds the key or password of a service"),
        (laughs(), "stands for more than 10,000 values"),
        ("trainer: {logger: shared.yaml}", "trainer.logger: "),  # each names the other
    ):
        Path("loggers.yaml").write_text(content + "\n")
        code, _, err = d2v("fit", *tiny, "--config", "shared.yaml")
        refused(code, err, message)
        assert not holds_a_key(err)


def test_the_config_beside_a_strangers_checkpoint(d2v: D2V, tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    shutil.copy(models["vision"], tmp_path / "run/checkpoints/last.ckpt")
    (tmp_path / "run/config.yaml").write_text(f"data: {RUN}\n")
    code, _, err = d2v("probe", "--checkpoint", "run")
    refused(code, err, r"data: subprocess\.Popen is no part")
    assert not (tmp_path / "ran").exists()


KEY = "hf_" + "abcdefghij" * 3
KEYS = {
    "of a logger": f"trainer: {{logger: [{{class_path: WandbLogger, init_args: {{api_key: {KEY}}}}}]}}",
    "password": "trainer: {logger: [{class_path: CSVLogger, init_args: {password: swordfish}}]}",
    "in an address": "data: {init_args: {root: 'https://user:swordfish@example.org/data'}}",
    "in a text": f"run_name: {KEY}",
    "of the environment": "run_name: environmental-key-0123",
}


@pytest.mark.parametrize("case", KEYS)
def test_a_key_in_a_config(
    d2v: D2V, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "environmental-key-0123")
    (tmp_path / "keys.yaml").write_text(KEYS[case] + "\n")
    code, _, err = d2v("fit", *tiny, "--config", "keys.yaml")
    refused(code, err, "holds the key or password of a service, .*WANDB_API_KEY")
    assert not holds_a_key(err)
    assert not (tmp_path / "runs").exists()


def test_keys_reach_no_file_and_no_message(d2v: D2V, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"{name.lower()}-swordfish")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, out, err = d2v("fit", *tiny, "--trainer.logger", "lightning.pytorch.loggers.WandbLogger")
    assert code == 0, err
    _, doctor, _ = d2v("doctor")
    _, _, failure = d2v("embed", "--checkpoint", "https://me:swordfish@x.org/y", "--input", ".", "--output", "o.npz")
    _, _, known = d2v("embed", "--checkpoint", "hf_token-swordfish", "--input", ".", "--output", "o.npz", "--debug")
    assert not any(map(holds_a_key, (out, err, doctor, failure, known)))
    files = [file for file in Path("runs").rglob("*") if file.is_file()]
    assert any("wandb" in file.parts for file in files)
    for file in files:
        assert b"swordfish" not in file.read_bytes(), file


def holds_a_key(text: str) -> bool:
    return any(key in text for key in ("swordfish", KEY, "environmental-key"))


def refused(code: int, err: str, message: str) -> None:
    last = err.strip().splitlines()[-1]
    assert code == 2, err[-2000:]
    assert last.startswith("d2v: error: ")
    assert re.search(message, err), err[-2000:]
    assert "Traceback" not in err
