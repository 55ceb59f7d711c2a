# ruff: noqa: RUF001
"""Letters to ids and back."""

import logging
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2v.data.alphabet import Alphabet
from d2v.errors import UserError


def test_letters_of_transcripts() -> None:
    alphabet = Alphabet.from_transcripts(["HELLO  WORLD", "IT'S"])
    assert alphabet.symbols == ("<blank>", "|", "'", "D", "E", "H", "I", "L", "O", "R", "S", "T", "W")
    assert len(alphabet) == 13
    ids = alphabet.encode(" hello \n world ")
    assert ids == [5, 4, 7, 7, 8, 1, 12, 8, 9, 7, 3]
    assert alphabet.decode([1, *ids, 0, 1]) == "HELLO WORLD"
    assert pickle.loads(pickle.dumps(alphabet)) == alphabet


@given(st.lists(st.text(alphabet="abcxyzäßéΩ中 ", min_size=1).filter(str.strip), min_size=1))
def test_transcripts_come_back(texts: list[str]) -> None:
    alphabet = Alphabet.from_transcripts(texts)
    assert all(alphabet.decode(alphabet.encode(text)) == " ".join(text.split()) for text in texts)


def test_case_follows_the_alphabet_and_composition_does_not_matter() -> None:
    assert Alphabet("_|ab").decode(Alphabet("_|ab").encode("AB Ba")) == "ab ba"
    assert Alphabet("_|aB").decode(Alphabet("_|aB").encode("aB")) == "aB"
    assert Alphabet.from_transcripts(["e\u0301"]).encode("\u00e9") == [2]


def test_unknown_characters_are_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    alphabet = Alphabet("_|AB")
    with caplog.at_level(logging.WARNING):
        assert alphabet.encode("A7B") == alphabet.encode("AB") == alphabet.encode("7A7B7")
    assert caplog.text.count("'7' is not in it") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert alphabet.report_unknown(["A8 B", "88"]) == {"8": 3}
        alphabet.encode("8")
    assert caplog.text.count("'8'") == 1


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "letters.txt"
    path.write_text("|\nE\nT\n")
    assert Alphabet.from_file(path).symbols == ("<blank>", "|", "E", "T")
    path.write_text("<pad>\n|\nE\n")
    assert Alphabet.from_file(path).symbols == ("<pad>", "|", "E")
    path.write_text("| 94802\nE 51860\nT 38431\n")
    fairseq = Alphabet.from_file(path)
    assert fairseq.symbols == ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T")
    assert fairseq.decode([0, 5, 3, 4, 6]) == "E T"
    assert fairseq.encode("et") == [5, 6]


WORD = "\u2581"  # begins a word of SentencePiece


@pytest.mark.parametrize(
    ("symbols", "text", "cut", "written"),
    [
        (("", "sil", "sh", "iy", "d"), "SIL sh iy  d", ["sil", "sh", "iy", "d"], "sil sh iy d"),
        (("", "sil", "sh", "|", "d"), "sil | sh d", ["sil", "|", "sh", "d"], "sil shd"),
        (("", WORD + "the", WORD + "cat", "s"), "the cats", [WORD + "the", WORD + "cat", "s"], "the cats"),
        (("", "|", WORD + "the", "cat", "s"), f"{WORD}the cat s", [WORD + "the", "cat", "s"], "thecats"),
        (("", "|", "yes", "no"), "yes no", ["yes", "|", "no"], "yes no"),
        (
            ("", "|", "c", "ch", "ll", "a", "o"),
            "chao callo",
            [*("ch", "a", "o", "|", "c", "a", "ll", "o")],
            "chao callo",
        ),
        (("", "tʃ", "aɪ", "e\u0303"), "tʃaɪ \u1ebd", ["tʃ", "aɪ", "e\u0303"], "tʃ aɪ e\u0303"),
    ],
)
def test_symbols_of_several_letters(symbols: tuple[str, ...], text: str, cut: list[str], written: str) -> None:
    alphabet = Alphabet(symbols)
    ids = alphabet.encode(text)
    assert [symbols[number] for number in ids] == cut
    assert alphabet.decode(ids) == written
    assert unicodedata.normalize("NFC", written) == unicodedata.normalize("NFC", alphabet.written(text))


def test_letters_of_turkish() -> None:
    assert Alphabet.from_transcripts(["\u0131rmak \u0130zmir"]).encode("I") == []
    alphabet = Alphabet("_|i\u0131mz")
    assert alphabet.decode(alphabet.encode("IZ\u0130M")) == "\u0131zim"
    assert Alphabet("_|IZM").written("izm") == "IZM"


def test_vocabularies_of_hugging_face(tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text('\ufeff{"b": 1, "a": 0, "|": 2, "[UNK]": 3, "[PAD]": 4}', encoding="utf-8")
    alphabet = Alphabet.from_file(path)
    assert alphabet.symbols == ("[PAD]", "a", "b", "|", "[UNK]")
    assert alphabet.decode([1, 3, 2, 4]) == "a b"
    path.write_text('{" ": 0, "a": 1}')
    assert Alphabet.from_file(path).symbols == ("<blank>", "|", "a")


def test_seldom_characters_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Alphabet.from_transcripts(["aaaaa bbbbb", "\u00f1 q q"])
    assert "4 characters in the training transcripts; 2 of them fewer than 5 times" in caplog.text
    assert "'\u00f1' 1, 'q' 2" in caplog.text


@pytest.mark.parametrize("text", ["A\nA\n", "", "<blank>\n", "9 A\n8 B\n", '{"model": {"vocab": {}}}'])
def test_senseless_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "letters.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"letters\.txt"):
        Alphabet.from_file(path)


def test_missing_file_and_empty_transcripts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not readable"):
        Alphabet.from_file(tmp_path / "none")
    with pytest.raises(UserError, match="empty"):
        Alphabet.from_transcripts([" "])
