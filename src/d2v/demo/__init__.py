"""Data that the machine can make itself."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from d2v.demo.demo_folder import DemoSummary


def prepare_demo(
    modality: Literal["vision", "speech", "text", "joint"], output: str | Path | None = None
) -> "DemoSummary":
    """Make the data of a demo; nothing is downloaded, and a finished folder is left alone.

    Args:
        modality: vision: crops of the photographs in scikit-image and scikit-learn; speech: sentences and digits that
            eSpeak NG says (GPL-3, the package espeakng-loader); text: docstrings of the installed packages; joint: all
            three, and digits that are written by hand, spoken and named in sentences.
        output: Folder to fill: a new or an empty one, or one of an earlier call; None: ``data/demo/MODALITY``.

    Raises:
        UserError: The folder holds something else or cannot be written, or a package is missing.
    """
    from d2v.demo import digits, packages, photos, voices
    from d2v.errors import UserError

    makers: dict[str, Callable[[Path], DemoSummary]] = {
        "vision": photos.prepare_photos,
        "speech": voices.prepare_voices,
        "text": packages.prepare_texts,
        "joint": digits.prepare_joint,
    }
    if modality not in makers:
        raise UserError(f"modality {modality}: give one of {', '.join(makers)}")
    folder = Path(output or Path("data/demo", modality))
    try:
        return makers[modality](folder)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror}); give another folder") from error
