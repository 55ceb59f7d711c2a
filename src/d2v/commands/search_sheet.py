"""A sheet of queries and their neighbours, where they are pictures."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from d2v.errors import UserError

_TILE_INCHES = 1.4
_MOST_QUERIES = 20


def draw_sheet(
    queries: list[str], is_row: list[bool], results: list[list[tuple[str, float]]], root: Path, path: Path
) -> Path:
    """A row a query: itself, then its neighbours with their similarities.

    Args:
        queries: ids or files; only the first 20 are drawn.
        is_row: whether a query is an id.
        results: ids and similarities of the neighbours of each.
        root: that ids are paths below; or the one file that was embedded.
        path: of the drawing.

    Raises:
        UserError: not one of the neighbours is a picture below ``root``.
    """
    folder = root.parent if root.is_file() else root
    drawn = list(zip(queries, is_row, results, strict=True))[:_MOST_QUERIES]
    if not any(_open(folder / name) for _, _, neighbours in drawn for name, _ in neighbours):
        raise UserError(f"--picture: no id is a picture below {folder}; give --root, the folder that the ids lie in")
    columns = 1 + max(len(neighbours) for neighbours in results)
    figure = Figure(figsize=(columns * _TILE_INCHES, len(drawn) * (_TILE_INCHES + 0.3)), layout="constrained")
    axes = figure.subplots(len(drawn), columns, squeeze=False)
    for line, (query, known, neighbours) in zip(axes, drawn, strict=True):
        tiles = [(folder / query if known else Path(query), "query")]
        tiles += [(folder / name, f"{value:.3f}") for name, value in neighbours]
        for ax in line:
            ax.axis("off")
        for ax, (file, title) in zip(line, tiles, strict=False):
            ax.set_title(f"{title}\n{file.name}", fontsize=6)
            if (picture := _open(file)) is not None:
                ax.imshow(picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _open(path: Path) -> Image.Image | None:
    """None where there is no picture that can be read."""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((320, 320))
            return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
