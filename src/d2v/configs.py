"""Where configs are found: the working folder first, then those that ship with the package."""

from pathlib import Path

from d2v.errors import UserError

_CHECKOUT = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = _CHECKOUT if _CHECKOUT.is_dir() else Path(__file__).resolve().parent / "configs"
"""Folder of the shipped configs: of the checkout when run from one, else inside the installed package."""


def find_config(name: str | Path) -> Path:
    """Path of a config given by path or by its name among the shipped ones (``v2/vision.yaml``).

    Raises:
        UserError: There is none; the message lists those with a similar name, or all.
    """
    path = Path(name).expanduser()
    for candidate in (path, SHIPPED / path):
        if candidate.is_file():
            return candidate
    if path.is_absolute():
        raise UserError(f"--config {name}: no such file")
    shipped = sorted(str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*.yaml"))
    similar = [other for other in shipped if path.stem in other] or shipped
    raise UserError(f"--config {name}: neither a file here nor a config that ships with d2v. There are: {', '.join(similar)}")
