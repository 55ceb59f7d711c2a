"""Hugging Face parquet with a column of encoded files, memory-mapped by the ``datasets`` library.

That library converts the files once into its own cache (``HF_DATASETS_CACHE``), as large as the data; nothing is
fetched from a network.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features


def load_parquet(files: list[Path], where: str) -> "Dataset":
    """All files as one data set.

    Raises:
        UserError: one cannot be read, or there are no rows; ``where`` begins the message.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except Exception as error:  # the library wraps what goes wrong in many types of its own
        raise UserError(f"{where} (or one beside it) cannot be read as parquet: {error.__cause__ or error}") from error
    if len(dataset) == 0:
        raise UserError(f"{where} has no rows.")
    return dataset


def encoded_column(features: "Features", kind: type, what: str, where: str) -> str:
    """The one column of encoded files: of the given feature, or a struct with bytes and path.

    Raises:
        UserError: there is none, or several.
    """

    def fits(feature: object) -> bool:
        return isinstance(feature, kind) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature))

    found = [name for name, feature in features.items() if fits(feature)]
    if len(found) != 1:
        raise UserError(
            f"{where}: expected one column of {what} (struct with bytes and path), found {found or 'none'} "
            f"among {list(features)}."
        )
    return found[0]


def named_column(features: "Features", names: Iterable[str]) -> str | None:
    """The first of these names that is a column."""
    return next((name for name in names if name in features), None)
