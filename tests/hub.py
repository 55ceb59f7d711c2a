"""The Hugging Face hub, replaced at the two functions of huggingface_hub that fetch a model."""

import fnmatch
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest


@dataclass
class Hub:
    """A hub with one repository."""

    repository: Path
    cache: Path
    connected: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Names and revisions that something was downloaded of."""
    waited: list[float] = field(default_factory=list)
    """Seconds that it was waited for an answer, each time that there was none."""

    def model_info(self, repo_id: str, *, revision: str | None = None, timeout: float) -> huggingface_hub.ModelInfo:
        if not self.connected:
            self.waited.append(timeout)
            raise huggingface_hub.errors.OfflineModeIsEnabled("no connection")
        siblings = [{"rfilename": name} for name in files_in(self.repository)]
        return huggingface_hub.ModelInfo(id=repo_id, siblings=siblings)

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str] | None = None,
        local_files_only: bool = False,
    ) -> str:
        patterns = ["*"] if allow_patterns is None else allow_patterns
        if local_files_only or not self.connected:
            if not self.cache.exists():
                raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
            for name in files_in(self.repository):
                wanted = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
                if wanted and not (self.cache / name).exists():
                    raise huggingface_hub.errors.LocalEntryNotFoundError("the snapshot is incomplete")
            return str(self.cache)
        self.asked.append((repo_id, revision))
        for name in files_in(self.repository):
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.repository / name, self.cache / name)
        return str(self.cache)


def files_in(folder: Path) -> list[str]:
    """Names of all files in a folder, sorted."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def serve(monkeypatch: pytest.MonkeyPatch, repository: Path, cache: Path) -> Hub:
    """Let the hub have what is in a folder, and download into ``cache``."""
    hub = Hub(repository, cache)
    monkeypatch.setattr(huggingface_hub, "model_info", hub.model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub
