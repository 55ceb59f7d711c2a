# ruff: noqa: RUF001
"""Transcripts of clips from tables as people write them, and what is kept of their text."""

import json
import unicodedata
from pathlib import Path

import pytest
from speech_files import write_audio

from d2v.data.sound.sound_files import SOUND
from d2v.data.sound.transcripts import clean, read_transcripts
from d2v.data.sources.splits import open_splits
from d2v.errors import UserError
from d2v.modalities.speech.data import LibriSpeechDataModule

NAMES = ["a/été 1.wav", "a/zwei.wav", "b/drei.flac"]
TEXTS = ["Ça va, l’été ?", 'Er sagte "ja".', "drei"]


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """As a Mac gives them: with accents apart."""
    return [unicodedata.normalize("NFD", f"{tmp_path}/{name}") for name in NAMES]


TABLES = {
    "common_voice.tsv": "client_id\tpath\tsentence\tage\nx\té té.mp3\tnichts\t\n"
    + "".join(f"x\t{Path(name).stem}.mp3\t{text}\t20\n" for name, text in zip(NAMES, TEXTS, strict=True)),
    "excel.csv": "Datei;Sprecher;Text\n"
    + "".join(f'{name};7;"{text.replace(chr(34), chr(34) * 2)}"\n' for name, text in zip(NAMES, TEXTS, strict=True)),
    "plain.csv": 'été 1.wav,Ça va, l’été ?\nzwei,"Er sagte ""ja""."\nb/drei,drei\n',
    "other_language.csv": "archivo,dura,frase\n"
    + "".join(f'{name},2.5,"{text.replace(chr(34), chr(34) * 2)}"\n' for name, text in zip(NAMES, TEXTS, strict=True)),
    "windows.txt": "".join(f"a\\{Path(name).name}|{text}\r\n" for name, text in zip(NAMES[:2], TEXTS, strict=False))
    + "b\\drei.flac|drei\r\n",
    "nemo.jsonl": "".join(
        json.dumps({"audio_filepath": f"/elsewhere/data/{name}", "duration": 2.5, "text": text}) + "\n"
        for name, text in zip(NAMES, TEXTS, strict=True)
    ),
    "list.json": json.dumps(
        [{"file_name": name, "transcription": text} for name, text in zip(NAMES, TEXTS, strict=True)], indent=1
    ),
    "quoted.tsv": 'file\ttext\na/été 1.wav\t"Ça va, l’été ?"\nzwei.wav\t"Er sagte ""ja""."\ndrei.flac\tdrei\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_of_all_kinds(tmp_path: Path, names: list[str], table: str, encoding: str) -> None:
    path = tmp_path / table
    path.write_text(TABLES[table], encoding=encoding)
    assert read_transcripts(path, names) == TEXTS


def test_lines_of_name_and_text_and_chosen_columns(tmp_path: Path) -> None:
    names = ["/x/u1.wav", "/x/u2.wav"]
    (tmp_path / "text").write_text("u1 Hello, world\nu2 yes\n")  # Kaldi
    assert read_transcripts(tmp_path / "text", names) == ["Hello, world", "yes"]
    (tmp_path / "metadata.csv").write_text('u1|No. "1|No. one\nu2|2 "|two\n')  # LJSpeech
    with pytest.raises(UserError, match=r"which column is the text\? Name it in data\.text_column.*: 1, 2, 3"):
        read_transcripts(tmp_path / "metadata.csv", names)
    assert read_transcripts(tmp_path / "metadata.csv", names, text_column="3") == ["No. one", "two"]
    (tmp_path / "t.csv").write_text("Ton,ID,Satz\nu2,9,zwei\nu1,8,eins\n")
    assert read_transcripts(tmp_path / "t.csv", names, "ton", "Satz") == ["eins", "zwei"]
    with pytest.raises(UserError, match=r"data\.text_column Text: .*has the columns Ton, ID, Satz"):
        read_transcripts(tmp_path / "t.csv", names, "Ton", "Text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,text\nx/1.wav,no\nx/2.wav,yes\n", r"no row names one of the 2 clips.*'x/1\.wav' in column file.*/a/u1"),
        (b"file,text\nu1.wav,no\nu1.wav,yes\n", "lines 2 and 3 both name u1.wav"),
        (b"file,text,age\nu1.wav,no, no,3\n", "line 2: 4 cells, where there are 3 columns"),
        ("file,text\nu1.wav,ja\nu2.wav,süß\n".encode("cp1252"), "line 3 is not UTF-8"),
        (b"", "is empty"),
        (b"file,text\n", "no row"),
    ],
)
def test_wrong_tables_are_explained(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_transcripts(tmp_path / "t.csv", ["/a/u1.wav", "/a/u2.wav"])


def test_a_name_in_two_folders_needs_its_folder(tmp_path: Path) -> None:
    names = ["/d/a/1.wav", "/d/b/1.wav"]
    (tmp_path / "t.csv").write_text("1.wav,one\n")
    with pytest.raises(UserError, match=r"is /d/a/1\.wav and also /d/b/1\.wav"):
        read_transcripts(tmp_path / "t.csv", names)
    (tmp_path / "t.csv").write_text("a/1.wav,one\nb/1.wav,two\n")
    assert read_transcripts(tmp_path / "t.csv", names) == ["one", "two"]


def test_transcripts_that_lie_beside_the_clips(tmp_path: Path) -> None:
    for name in ("x/1.wav", "x/2.wav", "x/3.wav", "y/4.wav", "y/5.wav"):
        write_audio(tmp_path / name, seconds=0.1)
    (tmp_path / "x/1.TXT").write_text("0 46797 She had\n")  # TIMIT
    (tmp_path / "x/2.phn").write_text("0 3050 h#\n3050 4559 sh\n")
    (tmp_path / "x/3.lab").write_text("three\n")
    (tmp_path / "metadata.csv").write_text("file_name,transcription\ny/4.wav,four\nx/1.wav,one\n")
    texts = open_splits(str(tmp_path), SOUND)[0].texts()
    assert texts is not None
    assert list(texts) == ["She had", "h# sh", "three", "four", ""]


def test_phones_beside_a_manifest_and_a_byte_order_mark(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", seconds=0.2)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.flac\t3200\n", encoding="utf-8-sig")
    (tmp_path / "train.phn").write_text("sil sh iy\n")
    texts = open_splits(str(tmp_path / "train.tsv"), SOUND)[0].texts()
    assert texts is not None
    assert list(texts) == ["sil sh iy"]
    (tmp_path / "train.ltr").write_text("sh iy | hh |\n")
    texts = open_splits(str(tmp_path / "train.tsv"), SOUND)[0].texts()
    assert texts is not None
    assert list(texts) == ["sh iy | hh |"]


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("lower", "Ça va – l’été, peut-être?\u200b", "ça va l'été peut être"),
        ("upper", "Straße 'Öl' 3,5 €", "STRASSE ÖL 3 5"),
        ("lower_tr", "IŞIK, İzmir!", "ışık izmir"),
        ("upper_tr", "ışık; izmir", "IŞIK İZMİR"),
        ("lower", "Съешь «ещё» этих…", "съешь ещё этих"),
        ("keep", "مَرْحَبًا، كَيْفَ؟", "مَرْحَبًا كَيْفَ"),
        ("keep", "नमस्ते। (दुनिया)", "नमस्ते दुनिया"),
    ],
)
def test_text_without_punctuation(case: str, text: str, expected: str) -> None:
    assert clean(text, case, "remove") == unicodedata.normalize("NFC", expected)
    assert clean(text, "keep", "keep") == " ".join(text.split())


def test_a_data_module_reads_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        write_audio(tmp_path / f"clips/n {number}.wav", seconds=0.3, seed=number)
    rows = "".join(f'n {number}.wav,"Äpfel, {"ABCDEFGHIJKL"[number]}!"\n' for number in range(11))
    (tmp_path / "table.csv").write_text(f"file,text\n{rows}n 99.wav,\n")
    values = {
        "root": str(tmp_path / "clips"), "batch_size": 2.0, "max_seconds": 1.0, "min_seconds": 0.1, "num_workers": 0,
        "labels": "transcript", "val_fraction": 0.25,
    }  # fmt: skip
    data = LibriSpeechDataModule(
        transcripts=str(tmp_path / "table.csv"), text_case="lower", punctuation="remove", **values
    )
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert data.alphabet is not None
    assert {"ä", "p", "f", "e", "l", "|"} <= set(data.alphabet.symbols)
    assert not {"Ä", ",", "!"} & set(data.alphabet.symbols)
    assert len(data.splits["train"].clips) + len(data.splits["val"].clips) == 11
    assert str(data.transcript(0)).startswith("äpfel ")
    assert "transcripts of 11 of 12 clips, in column text; 1 rows name no clip (first: n 99.wav)" in caplog.text
    assert "left out: 1 without a transcript" in caplog.text
    with pytest.raises(UserError, match=r"no clip of the training split has one .*read from a table \(data\.transcr"):
        LibriSpeechDataModule(**values).setup("fit")
    with pytest.raises(UserError, match=r"data\.transcripts is t\.csv, but data\.labels is None"):
        LibriSpeechDataModule(transcripts="t.csv", **{**values, "labels": None})
    with pytest.raises(UserError, match=r"data\.transcripts none\.csv: cannot be read"):
        LibriSpeechDataModule(transcripts="none.csv", **values).setup("fit")
