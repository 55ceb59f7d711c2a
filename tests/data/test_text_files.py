"""Small text files: a byte order mark is no part of the first entry, in whichever file of a user's it stands."""

# ruff: noqa: RUF001  (texts in many scripts)

import codecs
from pathlib import Path

import pytest

from d2v.configs import read_config
from d2v.data.sources.subsets import FewLabels
from d2v.errors import UserError
from d2v.finetuning.language_model import Lexicon
from d2v.text_files import read_lines, why_not_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_are_not_text(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(end.join(["კატა", "ძაღლი\u2028x", ""]).encode(encoding))
    assert read_lines(path, "--classes") == ["კატა", "ძაღლი\u2028x"]


def test_another_encoding_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "subset.txt"
    path.write_bytes("a.png\nпёс.png\n".encode("cp1251"))
    with pytest.raises(UserError, match=r"data.subset .*byte 0xEF in line 2.*iconv -f ENCODING -t UTF-8 .*WINDOWS-12"):
        read_lines(path, "data.subset")


def test_files_of_users_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "subset").write_text("a.png\n", encoding="utf-8-sig")
    (tmp_path / "c.yaml").write_text("model: {}\n", encoding="utf-16")
    (tmp_path / "words").write_text("ab b\n", encoding="utf-8-sig")
    kept = FewLabels(subset=str(tmp_path / "subset")).choose("images", 2, names=lambda: ["b.png", "a.png"])
    assert kept is not None
    assert kept.tolist() == [1]
    assert read_config(tmp_path / "c.yaml") == {"model": {}}
    assert "ab" in Lexicon.from_file(str(tmp_path / "words"), "ab")


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ("ქართული".encode(), True),
        ("ქართული".encode()[:-1], True),  # cut in a character
        (b"caf\xe9 " + b"a plain word " * 40, True),  # some byte went wrong
        (codecs.BOM_UTF16_LE + "кот".encode("utf-16-le"), True),
        ("кот и пёс".encode("cp1251"), False),
        ("кот и пёс".encode("utf-16-le"), False),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", False),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", False),
    ],
)
def test_what_is_text(head: bytes, text: bool) -> None:
    assert (why_not_text(head, "a.txt") is None) == text
