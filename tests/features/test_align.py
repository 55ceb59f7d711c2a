"""`d2v align`, `d2v embed --space shared` and `d2v search` across media, as a user calls them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import D2V, d2v  # noqa: F401  (a fixture)
from encoders import save_checkpoint, speech_encoder, text_encoder, vision_encoder
from PIL import Image
from speech_files import write_audio
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from d2v.features.feature_files import read_pooled
from d2v.features.shared_space import read_space

COLOURS = ("red", "green", "blue", "grey")
ROWS = 48


def _words(number: int) -> str:
    return f"a {COLOURS[number % 4]} square, the {number}th"


def _tokenizer() -> str:
    """Bytes as tokens, behind four special ones."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(letters), "<mask>"]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three encoders; coloured squares, tones and words that go together by four kinds, and tables of them."""
    root = tmp_path_factory.mktemp("align")
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "num_heads": 2}
    vision = vision_encoder(image_size=16, patch_size=4, **small)
    speech = speech_encoder(extractor=[[16, 10, 5], [16, 8, 8], [16, 8, 8]], position_groups=4, **small)
    text = text_encoder(vocab_size=261, max_positions=64, **small)
    text.assets = {"tokenizer.json": _tokenizer()}
    for name, encoder in (("vision", vision), ("speech", speech), ("text", text)):
        save_checkpoint(encoder, root / f"{name}.ckpt")
    generator = np.random.default_rng(0)
    lines = ["picture\tspeech\ttext\tkind"]
    for number in range(ROWS):
        kind = number % 4
        pixels = generator.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        pixels[..., slice(None) if kind == 3 else kind] += 150
        (root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "pictures" / f"{number}.png")
        time = np.arange(6_400) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * 200 * 3**kind * time) + 0.01 * generator.standard_normal(len(time))
        write_audio(root / "sounds" / f"{number}.wav", wave.astype(np.float32))
        lines.append(f"pictures/{number}.png\tsounds/{number}.wav\t{_words(number)}\t{COLOURS[kind]}")
    (root / "all.tsv").write_text("\n".join(lines) + "\n")
    (root / "train.tsv").write_text("\n".join(lines[:33]) + "\n")
    (root / "test.tsv").write_text("\n".join([lines[0], *lines[33:]]) + "\n")
    (root / "words.txt").write_text("".join(f"{_words(number)}\n" for number in range(4)))
    return root


def _checkpoints(root: Path, *names: str) -> list[object]:
    options: list[object] = []
    for name in names or ("vision", "speech", "text"):
        options += ["--checkpoint", root / f"{name}.ckpt"]
    return options


@pytest.fixture(scope="module")
def space(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a space of all three media, and features of all in it, in ``features/``."""
    from d2v import align, embed_files

    paths = [made / f"{name}.ckpt" for name in ("vision", "speech", "text")]
    folder = tmp_path_factory.mktemp("space") / "shared"
    align(paths, made / "train.tsv", output=folder, parts=2, width=8)
    (made / "features").mkdir()
    for path, source in zip(paths, ("pictures", "sounds", "words.txt"), strict=True):
        output = made / "features" / f"{source.partition('.')[0]}.npz"
        embed_files(path, made / source, output, space=folder, num_workers=0)
    return folder


def test_what_belongs_together_is_found_in_all_directions(made: Path, d2v: D2V) -> None:  # noqa: F811
    options = ["--pairs", made / "train.tsv", "--test", made / "test.tsv", "--label", "kind", "--baseline"]
    code, out, err = d2v("align", *_checkpoints(made), *options, "--width", 8, "--parts", 2)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    media = ("picture", "speech", "text")
    directions = {f"{one}->{other}" for one in media for other in media if one != other}
    for key in ("recall_at_1", "recall_at_5", "recall_at_10", "chance_at_1"):
        assert found[key].keys() == directions
    assert all(0.2 < chance < 0.3 for chance in found["chance_at_1"].values())
    assert np.mean(list(found["recall_at_1"].values())) > 0.6
    assert found["baseline"]["recall_at_1"].keys() == directions
    assert "picture->speech" in out.splitlines()[2]
    for name in ("vision", "speech", "text"):
        assert read_space(made / f"{name}.ckpt.shared").num_pairs == 32
    code, out, err = d2v("align", *_checkpoints(made), "--test", made / "test.tsv", "--label", "kind")
    assert code == 0, err
    again = json.loads(out.splitlines()[-1])
    assert again["recall_at_1"] == found["recall_at_1"]
    for name in ("vision", "speech", "text"):
        shutil.rmtree(made / f"{name}.ckpt.shared")


def test_the_same_seed_gives_the_same_space(made: Path, tmp_path: Path) -> None:
    from d2v import align

    paths = [made / "vision.ckpt", made / "text.ckpt"]
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        found = align(paths, made / "train.tsv", output=tmp_path / name, num_pairs=16, width=8, seed=seed)
        digests.append(found.space.digest)
        assert read_space(tmp_path / name).digest == found.space.digest
    assert digests[0] == digests[1] != digests[2]


def test_vectors_of_all_media_have_length_one_and_say_their_space(made: Path, space: Path) -> None:
    files = [read_pooled(made / "features" / f"{name}.npz") for name in ("pictures", "sounds", "words")]
    for file in files:
        np.testing.assert_allclose(np.linalg.norm(file.vectors, axis=1), 1, atol=1e-5)
        assert file.vectors.shape[1] == read_space(space).width
        assert file.settings["space"] == read_space(space).digest
    assert [file.settings["modality"] for file in files] == ["vision", "speech", "text"]


def test_searching_all_media_together(made: Path, space: Path, d2v: D2V) -> None:  # noqa: F811
    files = [made / "features" / f"{name}.npz" for name in ("pictures", "sounds", "words")]
    options = ["--output", "found.tsv", "--picture", "sheet.png", "--top", 60]
    queries = ["--query", "5.png", "--query", made / "sounds/6.wav", "--text", _words(3), *_checkpoints(made)]
    code, out, err = d2v("search", *files, *queries, *options)
    assert code == 0, err
    rows = list(csv.DictReader(Path("found.tsv").read_text().splitlines(), delimiter="\t"))
    assert {row["medium"] for row in rows} == {"vision", "speech", "text"}
    assert {row["text"] for row in rows if row["medium"] == "text"} == {_words(number) for number in range(4)}
    assert {row["query"] for row in rows} == {"5.png", str(made / "sounds/6.wav"), _words(3)}
    assert rows[60]["id"] == "6.wav"  # a new file that is the same as a row
    assert float(rows[60]["similarity"]) == pytest.approx(1, abs=1e-4)
    assert f"1: {_words(0)}" in out
    with Image.open("sheet.png") as picture:
        assert picture.width > 1000
    both = ["--together", "--query", "5.png", "--text", "a red", *_checkpoints(made, "text"), "--top", 3]
    code, out, err = d2v("search", *files, *both)
    assert code == 0, err
    assert out.splitlines()[0] == "5.png + a red"
    assert len(out.splitlines()) == 2 + 3
    assert "5.png" not in "".join(out.splitlines()[1:])
