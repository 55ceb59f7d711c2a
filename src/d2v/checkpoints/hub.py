"""The Hugging Face hub, which is used only if the user names it: ``hf://owner/name[@revision][/path]``."""

import glob
import logging
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from d2v.errors import UserError

log = logging.getLogger(__name__)

_ADDRESS = re.compile(  # a Path keeps one slash
    r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[\w.-]+|[\w.-]+))?(?:/(?P<path>[^@]+))?"
)
KINDS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of files of weights, those first that are fetched rather than others."""
_PATIENCE = {True: 3, False: 30}
"""Seconds that the hub may take to answer, by whether there is a copy."""
_INDEX = ".index.json"
_WHOLE = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
"""What stands for a folder of transformers or of d2v, the former rather than the latter."""
_OTHER = re.compile(r"(?:training_args|optimizer|scheduler|scaler|rng_state|random_states|head)\b.*")
"""Files with such an ending that are not a model."""
BESIDE = (".json", ".txt", ".yaml", ".yml", ".bpe", ".md")
"""Endings of what is fetched with weights: settings, tokenizer, dictionaries, names of classes, model card."""


def is_remote(source: str | Path) -> bool:
    """Whether a source is an address of the hub."""
    return str(source).startswith("hf:/")


def local_path(source: str | Path) -> Path:
    """The path itself; for an address of the hub, where its weights lie in the hub's cache after a download.

    One model is fetched, and the settings, dictionaries and tokenizer beside it: of several files the safetensors, then
    .bin, then .pt. That is a folder if the model is one of d2v or of transformers, else the file of the weights.

    Raises:
        UserError: It is no such address, it cannot be downloaded, or it has several models and names none of them.
    """
    if not is_remote(source):
        return Path(source).expanduser()
    address = _ADDRESS.fullmatch(str(source))
    if address is None:
        raise UserError(
            f"{source}: an address of the hub is hf://owner/name, with @revision or /path/to/file behind it if need be"
        )
    import huggingface_hub

    name, revision, path = address["name"], address["revision"], address["path"]
    kept = _kept(name, revision, path)
    try:
        # One request: the library's functions that list and download try for half a minute where there is no network.
        about = huggingface_hub.model_info(name, revision=revision, timeout=_PATIENCE[kept is not None])
        weights, wanted = _choose([file.rfilename for file in about.siblings or ()], path, str(source))
        patterns = [glob.escape(file) for file in wanted]
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns), weights)
    except UserError:
        raise
    except Exception as error:  # the error types of its HTTP library have changed before
        if kept is None:
            raise UserError(f"{source}: cannot be downloaded ({_first_line(error)})") from error
        log.warning("%s: what was downloaded before is taken, the hub does not answer (%s)", source, _first_line(error))
        return kept


def weights_in(folder: Path) -> Path:
    """The weights in a folder on the disk, chosen as in a repository: a file, or the folder of a whole model.

    Raises:
        UserError: There are none, or several and nothing tells which.
    """
    return folder / _choose([file.name for file in folder.iterdir() if file.is_file()], None, str(folder))[0]


def _kept(name: str, revision: str | None, path: str | None) -> Path | None:
    """Where the weights of an address lie that was downloaded before; None if it was not."""
    import huggingface_hub

    try:
        # With no patterns it does not mind that the rest of the repository was never fetched.
        snapshot = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[], local_files_only=True)
        folder = Path(snapshot)
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        return folder / _choose(files, path, name)[0]
    except (OSError, ValueError):  # huggingface_hub's own errors are subclasses
        return None


def _choose(files: Collection[str], path: str | None, source: str) -> tuple[str, list[str]]:
    """The weights to fetch, a file or the folder of a whole model, and all files that go with them.

    Args:
        files: Of the repository.
        path: The file or folder in it that the user names.
        source: The address, for messages.

    Raises:
        UserError: There are no weights, or several and none is named.
    """
    place, chosen = PurePosixPath(path or ""), None
    if path is not None and path in files:
        place, chosen = place.parent, path
    here = {file: PurePosixPath(file) for file in files if PurePosixPath(file).parent == place}
    models: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name, file in here.items():
        if file.suffix in models and not _OTHER.fullmatch(file.name):
            models[file.suffix].append(name)
    for whole in _WHOLE:
        if chosen is None and (place / whole).as_posix() in here:
            chosen = (place / whole).as_posix()
    if chosen is None:
        found = next(filter(None, models.values()), [])
        if len(found) != 1:
            raise UserError(_which(files, found, source))
        chosen = found[0]
    kind = PurePosixPath(chosen.removesuffix(_INDEX)).suffix
    wanted = [chosen]
    for name, file in here.items():
        is_part = chosen.endswith(_INDEX) and file.suffix == kind and "-of-" in file.name
        if is_part or file.name == "head.safetensors" or file.suffix in BESIDE:
            wanted.append(name)
    is_whole = PurePosixPath(chosen).name in _WHOLE and (place / "config.json").as_posix() in here
    return str(place) if is_whole else chosen, list(dict.fromkeys(wanted))


def _which(files: Collection[str], found: list[str], source: str) -> str:
    """What is wrong with an address for which no file can be chosen; ``found``: those that it could mean."""
    if not found:
        for file in map(PurePosixPath, files):
            if file.suffix in KINDS and not _OTHER.fullmatch(file.name):
                found.append(str(file))
    root = re.sub(r"(hf:/{1,2}[^/]+/[^/]+)/.*", r"\1", source)
    names = ", ".join(f"{root}/{file}" for file in sorted(found)[:20])
    if not found:
        return f"{source}: holds no weights ({', '.join(KINDS)})"
    return f"{source}: does not say which model; give one of {names}"


def require_token(repository: str) -> None:
    """Raise a UserError unless there is a token to push with, and ``repository`` is ``OWNER/NAME``."""
    import huggingface_hub

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"--push {repository}: give OWNER/NAME")
    if huggingface_hub.get_token() is None:
        raise UserError(
            f"--push {repository}: there is no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN"
        )


def push(folder: Path, repository: str) -> str:
    """Upload a folder with its model card, and return the address.

    Raises:
        UserError: The hub refuses it, or cannot be reached.
    """
    import huggingface_hub

    try:
        url = huggingface_hub.create_repo(repository, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"d2v export to {folder.name}"
        )
    except Exception as error:  # the error types of its HTTP library have changed before
        raise UserError(
            f"--push {repository}: {_first_line(error)}. The folder {folder} is written; push it again with "
            f"`hf upload {repository} {folder}`"
        ) from error
    return str(url)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
