"""Where a checkpoint that the user names lies on the disk; one of others is translated first."""

import logging
from importlib import import_module
from pathlib import Path

from d2v.checkpoints import hub
from d2v.checkpoints.folder import is_folder
from d2v.checkpoints.intact import newest_intact
from d2v.checkpoints.unpickle import load_untrusted
from d2v.errors import UserError

log = logging.getLogger(__name__)


def place_of(path: str | Path) -> Path:
    """A folder that `d2v import` or `d2v export` wrote, or a file that may be a checkpoint of ours.

    Args:
        path: Such a folder, a ``.ckpt``, the folder of a run (its ``checkpoints/best.ckpt``, else ``last.ckpt``), or a
            checkpoint of others as ``d2v import`` takes it; all of them also as ``hf://owner/name``.

    Raises:
        UserError: There is no such checkpoint, or a foreign one cannot be imported.
    """
    place = hub.local_path(path)
    if is_folder(place):
        return place
    if is_folder(place.parent) and place.suffix == ".safetensors":
        raise UserError(f"{path}: give the folder that it lies in, {place.parent}")
    if place.is_dir():
        if not any(file.suffix in hub.KINDS for file in place.iterdir()):
            return checkpoint_of_run(place)
    elif not place.is_file():
        raise UserError(f"{path}: no such file")
    elif place.suffix != ".safetensors" and "d2v" in load_untrusted(place):
        return place
    # A room above this one: it knows the modalities, which nothing here does.
    return Path(import_module("d2v.official.cached_import").import_once(place))


def checkpoint_of_run(folder: Path) -> Path:
    """``best.ckpt`` in the folder of a run, if it keeps one, else its newest checkpoint; damaged ones are named.

    Raises:
        UserError: It has none.
    """
    versions = sorted(folder.glob("lightning_logs/version_*/checkpoints"), key=lambda place: place.stat().st_mtime_ns)
    places = [folder / "checkpoints", folder, *versions[-1:]]
    damaged: list[str] = []
    for place in places:
        found, better = newest_intact(place, best_first=True)
        damaged += better
        if found is not None:
            for text in damaged:
                log.warning("%s: %s is taken in its place", text, found)
            return found
    if damaged:
        raise UserError(f"{'; '.join(dict.fromkeys(damaged))}; there is no other in {folder}")
    raise UserError(f"{folder}: holds neither config.json and model.safetensors, nor a checkpoint (checkpoints/*.ckpt)")
