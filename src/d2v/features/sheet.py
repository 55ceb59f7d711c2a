"""A sheet of queries and their neighbours: pictures, spectrograms of sound, and words."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from d2v.data.sound.audio_reader import SAMPLE_RATE, SUFFIXES, AudioReader
from d2v.errors import BrokenSample, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from d2v.features.queries import Item
    from d2v.features.search import Neighbours

_TILE_INCHES = 1.4
_MOST_QUERIES = 20
_LETTERS, _SECONDS, _WINDOW = 160, 10, 400


def draw_sheet(found: Sequence["Neighbours"], path: Path) -> None:
    """Draw one row a query: the query, then its neighbours and their similarities. Only the first 20 are drawn.

    Args:
        found: Neighbours of each query.
        path: The file to draw to.

    Raises:
        UserError: Not one of the neighbours is a picture or sound that can be read, or a text.
    """
    drawn = found[:_MOST_QUERIES]
    most_queries = max(len(neighbours.queries) for neighbours in drawn)
    columns = most_queries + max(len(neighbours.ids) for neighbours in drawn)
    figure = Figure(figsize=(columns * _TILE_INCHES, len(drawn) * (_TILE_INCHES + 0.3)), layout="constrained")
    axes = figure.subplots(len(drawn), columns, squeeze=False)
    any_neighbour = False
    for line, neighbours in zip(axes, drawn, strict=True):
        for ax in line:
            ax.axis("off")
        tiles = [(item, "query") for item in neighbours.queries]
        for item, similarity in zip(neighbours.items, neighbours.similarities, strict=True):
            tiles.append((item, f"{similarity:.3f}"))
        for column, (item, title) in enumerate(tiles):
            line[column].set_title(f"{title}\n{item.place.name}"[:40], fontsize=6)
            any_neighbour |= _draw(line[column], item) and column >= len(neighbours.queries)
    if not any_neighbour:
        folder = drawn[0].items[0].place.parent
        raise UserError(
            f"--picture: no id is a picture below {folder}, or sound or a text; give --root, the folder that the ids "
            "lie in"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw(ax: "Axes", item: "Item") -> bool:
    """Draw one item; False if it can not be read."""
    if item.text:
        ax.text(0.5, 0.5, textwrap.fill(item.text[:_LETTERS], 18), fontsize=6, ha="center", va="center")
    elif (picture := _open(item.place)) is not None:
        ax.imshow(picture)
    elif (spectrogram := _spectrogram(item.place)) is not None:
        ax.imshow(spectrogram, origin="lower", aspect="auto")
    else:
        return False
    return True


def _spectrogram(path: Path) -> np.ndarray | None:
    """Logarithm of the magnitudes of the first seconds, [frequencies, time]; None if it is no sound."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    try:
        with AudioReader(path) as reader:
            wave = reader.read(0, min(reader.num_samples, _SECONDS * SAMPLE_RATE)).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[:: _WINDOW // 4]
    except (BrokenSample, ValueError):
        return None
    magnitudes = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW)))
    return np.log(magnitudes + 1e-2).T


def _open(path: Path) -> Image.Image | None:
    """The picture; None if there is none that can be read."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I"):  # 16 bit, which convert() would clip at 255
            picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
        picture.thumbnail((320, 320))
        return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
