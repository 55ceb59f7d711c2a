"""The Hugging Face hub, which is used only if the user names it: ``hf://owner/name[@revision]``."""

import re
from pathlib import Path

from d2v.errors import UserError

_ADDRESS = re.compile(r"hf:/{1,2}(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")  # a Path keeps one slash
_FILES = ["*.safetensors", "*.json", "*.txt", "*.md", "*.bin"]


def is_remote(source: str | Path) -> bool:
    """Whether a source is an address of the hub."""
    return str(source).startswith("hf:/")


def local_path(source: str | Path) -> Path:
    """The path itself; for an address of the hub, the folder in the hub's cache that it is downloaded to.

    Raises:
        UserError: It is no such address, or it cannot be downloaded.
    """
    if not is_remote(source):
        return Path(source).expanduser()
    address = _ADDRESS.fullmatch(str(source))
    if address is None:
        raise UserError(f"{source}: an address of the hub is hf://owner/name or hf://owner/name@revision")
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(address["name"], revision=address["revision"], allow_patterns=_FILES)
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are subclasses
        raise UserError(f"{source}: cannot be downloaded ({_first_line(error)})") from error
    return Path(folder)


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
