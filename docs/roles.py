"""For the pages of the API: names that docstrings mark for Sphinx, such as :func:`d2v.load`, are plain names there."""

import re
from typing import Any

import griffe


class PlainNames(griffe.Extension):
    """Takes the roles out of all docstrings."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
