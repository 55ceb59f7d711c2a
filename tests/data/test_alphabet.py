"""Letters to ids and back."""

import logging
import pickle
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


@pytest.mark.parametrize("text", ["A\nA\n", "", "<blank>\n"])
def test_senseless_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "letters.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"letters\.txt"):
        Alphabet.from_file(path)


def test_missing_file_and_empty_transcripts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Alphabet.from_file(tmp_path / "none")
    with pytest.raises(UserError, match="empty"):
        Alphabet.from_transcripts([" "])
