"""Checkpoints of others where one of ours is expected: imported at the first use, and kept in the user's cache."""

import logging
from pathlib import Path

from d2v.checkpoints import folder, hub
from d2v.data.file_index import fingerprint
from d2v.data.user_cache import bound_size, entry_path, hold, making
from d2v.errors import UserError
from d2v.official.importing import import_checkpoint

log = logging.getLogger(__name__)


def import_once(source: Path) -> Path:
    """The folder that a checkpoint of others was imported into; it is imported if it, or what lies beside it, is new.

    Raises:
        UserError: As :func:`~d2v.official.importing.import_checkpoint`, or the cache cannot be written.
    """
    beside, endings = source.parent, set(hub.BESIDE)
    if source.is_dir():
        beside = source
        endings.update(hub.KINDS)
    files = sorted(file for file in beside.iterdir() if file.suffix in endings)
    readers = sorted(Path(__file__).parent.rglob("*.py"))  # other ones may read it otherwise
    place = entry_path("imported", fingerprint([source, *files, *readers]), source)
    hold(place)
    try:
        with making(place):
            if not folder.is_folder(place):
                summary = str(import_checkpoint(source, place))
                log.warning("%s: imported, and kept in the cache of d2v:\n%s", source, summary.rpartition("\n")[0])
    except OSError as error:
        how = "set XDG_CACHE_HOME, or use d2v import --output FOLDER and give FOLDER"
        raise UserError(f"{source}: cannot be kept in the cache of d2v ({error}); {how}") from error
    bound_size(place)
    return place
