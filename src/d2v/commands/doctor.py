"""``d2v doctor``: what this machine can do, what is missing, how to get it."""

import argparse
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from d2v.data.cores import available_cores

OK, NOTE, MISSING = "ok", "note", "MISSING"
Row = tuple[str, str, str]
"""(state, subject, what is so and what to do)"""

_NEEDED = (
    "torch", "torchvision", "torchaudio", "lightning", "torchmetrics", "jsonargparse", "datasets", "safetensors",
    "pillow",
)  # fmt: skip
_LEAST_GIB = 5
_OPTIONAL = {
    "wandb": "logging to Weights & Biases",
    "tensorboard": "logging to TensorBoard",
    "matplotlib": "pictures of `d2v probe --output`",
    "scikit-image": "photographs of `d2v prepare demo vision`",
    "espeakng-loader": "voices of `make demo-speech`",
    "kenlm": "language models in speech recognition",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--data", type=Path, action="append", default=[], help="a data folder to look at too")


def run(args: argparse.Namespace) -> None:
    """Print the findings.

    Raises:
        UserError: Something that training needs is missing.
    """
    from d2v.errors import UserError

    rows = [*_machine(), *_packages(), *_devices(), *_configs(), *(row for path in args.data for row in _data(path))]
    width = max(len(subject) for _, subject, _ in rows)
    for state, subject, text in rows:
        print(f"{state:>7}  {subject:<{width}}  {text}")
    missing = [subject for state, subject, _ in rows if state == MISSING]
    if missing:
        raise UserError(f"missing: {', '.join(missing)}")


def _machine() -> Iterator[Row]:
    version = platform.python_version()
    state = OK if (3, 11) <= sys.version_info[:2] <= (3, 13) else MISSING
    yield state, "python", f"{version}{'' if state == OK else ': d2v needs 3.11 to 3.13'}"
    yield OK, "system", f"{platform.system()} {platform.machine()}, {available_cores()} cores for this process"
    memory = _memory()
    if memory is not None:
        total, available = memory
        text = f"{available:.0f} GiB free of {total:.0f}"
        few = available < _LEAST_GIB
        yield (NOTE if few else OK), "memory", text + (": close programs, or set data.num_workers to 0" if few else "")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    few = free < _LEAST_GIB
    advice = ": set trainer.default_root_dir to a larger disk" if few else ""
    yield (NOTE if few else OK), "disk", f"{free:.0f} GiB free here{advice}"


def _memory() -> tuple[float, float] | None:
    """All memory and what is free of it, in GiB; None where the system does not say. A container's limit counts."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(lines[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) / 2**30
        used = int((group / "memory.current").read_text()) / 2**30
    except (OSError, ValueError):  # no such limit
        return total, available
    return min(total, limit), min(available, limit - used)


def _packages() -> Iterator[Row]:
    for name in _NEEDED:
        version = _version(name)
        yield (OK, name, version) if version else (MISSING, name, f"pip install {name}")
    yield _soundfile()
    for name, use in _OPTIONAL.items():
        version = _version(name)
        yield (OK, name, version) if version else (NOTE, name, f"not installed, it serves {use}: pip install {name}")


def _soundfile() -> Row:
    """The library is part of the package, or else the system's, which may be old and without some formats."""
    version = _version("soundfile")
    if version is None:
        return MISSING, "soundfile", "pip install soundfile"
    try:
        import soundfile
    except OSError as error:
        return MISSING, "soundfile", f"{version}, but libsndfile cannot be loaded ({error}): install libsndfile"
    text = f"{version}, libsndfile {soundfile.__libsndfile_version__}"
    found = {
        "MP3": "MP3" in soundfile.available_formats(),
        "Opus": "OPUS" in soundfile.available_subtypes("OGG"),
    }
    lacking = " and ".join(name for name, there in found.items() if not there)
    if lacking:
        return NOTE, "soundfile", f"{text}, which cannot read {lacking}: install libsndfile 1.1 or newer"
    return OK, "soundfile", f"{text}, reads MP3 and Opus"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Row]:
    if not _version("torch"):
        return
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(i))
            with torch.cuda.device(i):
                precision = "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
            busy = "; another program uses it: see nvidia-smi" if free < 0.9 * total else ""
            text = f"{gpu.name}, {free:.0f} GiB free of {total:.0f}; --trainer.precision {precision}{busy}"
            yield (NOTE if busy else OK), f"cuda:{i}", text
    elif torch.version.cuda:
        yield NOTE, "cuda", "no GPU that torch can use; if there is one, nvidia-smi shows whether its driver works"
    else:
        yield NOTE, "cuda", "this build of torch has no CUDA; https://pytorch.org has one that does"
    if torch.backends.mps.is_available():
        yield OK, "mps", "Apple GPU; --trainer.accelerator mps --trainer.precision 32"
    yield (
        OK,
        "cpu",
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; --trainer.precision 32",
    )


def _configs() -> Iterator[Row]:
    from d2v.configs import SHIPPED

    found = sum(1 for _ in SHIPPED.rglob("*.yaml"))
    yield (OK if found else MISSING), "configs", f"{found} in {SHIPPED}"


def _data(path: Path) -> Iterator[Row]:
    from d2v.errors import UserError
    from d2v.modalities.vision.data import ImageNetDataModule

    try:
        data = ImageNetDataModule(root=str(path))
        data.setup("fit")
        samples = len(data.train_dataset())
        val = data.eval_dataset("val")
        counts = f"{samples:,} pictures to train on, {len(val) if val else 0:,} to validate"
        yield OK, str(path), f"{counts}, {data.num_classes} classes"
    except UserError as error:
        yield MISSING, str(path), str(error)
