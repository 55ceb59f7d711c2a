"""What this machine can do, what is missing, and how to get it: the function behind `d2v doctor`."""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from d2v.configs import SHIPPED
from d2v.data.cores import available_cores
from d2v.errors import UserError

OK, NOTE, MISSING = "ok", "note", "MISSING"

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
    "onnxruntime": "`d2v export --format onnx`",
}


class Finding(NamedTuple):
    """The state of one thing that training needs or can use."""

    state: str
    """ok, note (something to know or to mend) or MISSING (training cannot do without)."""
    subject: str
    text: str
    """What is so, and what to do."""


def check_machine(data: Iterable[str | Path] = ()) -> list[Finding]:
    """Look at Python, memory, disk, packages, devices and configs, and at the folders of pictures in ``data``."""
    configs = len(list(SHIPPED.rglob("*.yaml")))
    found = Finding(OK if configs else MISSING, "configs", f"{configs} in {SHIPPED}")
    return [*_machine(), *_packages(), *_devices(), found, *map(_pictures, data)]


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding(OK, "python", version)
    else:
        yield Finding(MISSING, "python", f"{version}: d2v needs 3.11 to 3.13")
    cores = f"{available_cores()} cores for this process"
    yield Finding(OK, "system", f"{platform.system()} {platform.machine()}, {cores}")
    memory = _memory()
    if memory is not None:
        total, available = memory
        text = f"{available:.0f} GiB free of {total:.0f}"
        yield _enough("memory", available, text, "close programs, or set data.num_workers to 0")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield _enough("disk", free, f"{free:.0f} GiB free here", "set trainer.default_root_dir to a larger disk")


def _enough(subject: str, gib: float, text: str, advice: str) -> Finding:
    if gib < _LEAST_GIB:
        return Finding(NOTE, subject, f"{text}: {advice}")
    return Finding(OK, subject, text)


def _memory() -> tuple[float, float] | None:
    """Total and free memory in GiB, within the limit of a container; None if the system does not say."""
    found = {}
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            found[name] = int(value.split()[0]) / 2**20
        total, available = found["MemTotal"], found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) / 2**30
        used = int((group / "memory.current").read_text()) / 2**30
    except (OSError, ValueError):  # there is no limit
        return total, available
    return min(total, limit), min(available, limit - used)


def _packages() -> Iterator[Finding]:
    for name in _NEEDED:
        version = _version(name)
        if version is None:
            yield Finding(MISSING, name, f"pip install {name}")
        else:
            yield Finding(OK, name, version)
    yield _soundfile()
    for name, use in _OPTIONAL.items():
        version = _version(name)
        if version is None:
            yield Finding(NOTE, name, f"not installed; only needed for {use}: pip install {name}")
        else:
            yield Finding(OK, name, version)


def _soundfile() -> Finding:
    """The library comes with the package, or is the system's, which may be old and lack some formats."""
    version = _version("soundfile")
    if version is None:
        return Finding(MISSING, "soundfile", "pip install soundfile")
    try:
        import soundfile
    except OSError as error:
        text = f"{version}, but libsndfile cannot be loaded ({error}): install libsndfile"
        return Finding(MISSING, "soundfile", text)
    text = f"{version}, libsndfile {soundfile.__libsndfile_version__}"
    lacking = []
    if "MP3" not in soundfile.available_formats():
        lacking.append("MP3")
    if "OPUS" not in soundfile.available_subtypes("OGG"):
        lacking.append("Opus")
    if lacking:
        text = f"{text}, which cannot read {' and '.join(lacking)}: install libsndfile 1.1 or newer"
        return Finding(NOTE, "soundfile", text)
    return Finding(OK, "soundfile", f"{text}, reads MP3 and Opus")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    if not _version("torch"):
        return
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            free, total = torch.cuda.mem_get_info(number)
            with torch.cuda.device(number):
                precision = "16-mixed"
                if torch.cuda.is_bf16_supported(including_emulation=False):
                    precision = "bf16-mixed"
            text = f"{gpu.name}, {free / 2**30:.0f} GiB free of {total / 2**30:.0f}; --trainer.precision {precision}"
            if free < 0.9 * total:
                yield Finding(NOTE, f"cuda:{number}", f"{text}; another program uses it: see nvidia-smi")
            else:
                yield Finding(OK, f"cuda:{number}", text)
    elif torch.version.cuda:
        text = "no GPU that torch can use; if there is one, nvidia-smi shows whether its driver works"
        yield Finding(NOTE, "cuda", text)
    else:
        yield Finding(NOTE, "cuda", "this build of torch has no CUDA; https://pytorch.org has one that does")
    if torch.backends.mps.is_available():
        yield Finding(OK, "mps", "Apple GPU; --trainer.accelerator mps --trainer.precision 32")
    text = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; --trainer.precision 32"
    yield Finding(OK, "cpu", text)


def _pictures(folder: str | Path) -> Finding:
    from d2v.modalities.vision.data import ImageNetDataModule

    try:
        data = ImageNetDataModule(root=str(folder))
        data.setup("fit")
        val = data.eval_dataset("val")
        num_val = 0 if val is None else len(val)
        counts = f"{len(data.train_dataset()):,} pictures to train on, {num_val:,} to validate"
    except UserError as error:
        return Finding(MISSING, str(folder), str(error))
    return Finding(OK, str(folder), f"{counts}, {data.num_classes} classes")
