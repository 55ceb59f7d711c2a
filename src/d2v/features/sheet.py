"""A sheet of queries and their neighbours, where they are pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from PIL import Image, ImageOps

from d2v.errors import UserError

if TYPE_CHECKING:
    from d2v.features.search import Neighbours

_TILE_INCHES = 1.4
_MOST_QUERIES = 20


def draw_sheet(found: Sequence["Neighbours"], root: Path, path: Path) -> None:
    """Draw one row a query: the query, then its neighbours and their similarities. Only the first 20 are drawn.

    Args:
        found: Neighbours of each query.
        root: The folder that ids are paths in; or the one file that was embedded.
        path: The file to draw to.

    Raises:
        UserError: Not one of the neighbours is a picture below ``root``.
    """
    folder = root.parent if root.is_file() else root
    drawn = found[:_MOST_QUERIES]
    columns = 1 + max(len(neighbours.ids) for neighbours in drawn)
    figure = Figure(figsize=(columns * _TILE_INCHES, len(drawn) * (_TILE_INCHES + 0.3)), layout="constrained")
    axes = figure.subplots(len(drawn), columns, squeeze=False)
    any_neighbour = False
    for line, neighbours in zip(axes, drawn, strict=True):
        for ax in line:
            ax.axis("off")
        query = Path(neighbours.query)
        if neighbours.row is not None:
            query = folder / query
        tiles = [(query, "query")]
        for name, similarity in zip(neighbours.ids, neighbours.similarities, strict=True):
            tiles.append((folder / name, f"{similarity:.3f}"))
        for column, (file, title) in enumerate(tiles):
            line[column].set_title(f"{title}\n{file.name}", fontsize=6)
            if (picture := _open(file)) is not None:
                line[column].imshow(picture)
                any_neighbour |= column > 0
    if not any_neighbour:
        raise UserError(f"--picture: no id is a picture below {folder}; give --root, the folder that the ids lie in")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


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
