"""`d2v search` as a user calls it: neighbours of rows and of new files."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import save_checkpoint, vision_encoder
from PIL import Image

from d2v.cli import main
from d2v.errors import UserError
from d2v.features import sheet
from d2v.features.feature_files import read_pooled
from d2v.features.search import nearest

SIZE = 16


def save(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    encoder = vision_encoder(image_size=SIZE, patch_size=4, width=16, depth=2, num_heads=2)
    return save_checkpoint(encoder, path)


def run(*args: object) -> int:
    return main([*map(str, args)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, six pictures in two colours, and their features in all formats."""
    root = tmp_path_factory.mktemp("search")
    save(root / "last.ckpt", 0)
    generator = np.random.default_rng(0)
    for number in range(6):
        path = root / "pictures" / ("red" if number < 3 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 30, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[..., 0 if number < 3 else 2] += 200
        Image.fromarray(pixels).save(path)
    common = ["--checkpoint", root / "last.ckpt", "--input", root / "pictures", "--num_workers", 0]
    for suffix in ("parquet", "npz", "safetensors"):
        assert run("embed", *common, "--output", root / f"x.{suffix}", "--layer", "0,1") == 0
        assert run("embed", *common, "--output", root / f"patches.{suffix}", "--pool", "none") == 0
    return root


@pytest.mark.parametrize("suffix", ["parquet", "npz", "safetensors"])
def test_the_nearest_rows_of_a_row(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    features = read_pooled(made / f"x.{suffix}")
    table = tmp_path / "new" / "x.tsv"
    queries = ["--query", "red/0.png", "--query", "blue/4.png"]
    assert run("search", made / f"x.{suffix}", *queries, "--top", 2, "--output", table) == 0
    out = capsys.readouterr().out
    rows = list(csv.DictReader(table.open(), delimiter="\t"))
    assert [row["query"] for row in rows] == ["red/0.png"] * 2 + ["blue/4.png"] * 2
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert {row["id"] for row in rows[:2]} == {"red/1.png", "red/2.png"}
    assert {row["id"] for row in rows[2:]} == {"blue/3.png", "blue/5.png"}
    for row in rows:
        one, other = (features.vectors[features.ids.index(row[key])] for key in ("query", "id"))
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert float(row["similarity"]) == pytest.approx(cosine, abs=1e-5)
        assert f"{float(row['similarity']):10.4f}  {row['id']}\n" in out


def test_a_new_file_is_embedded_as_the_rows_were(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.png"
    new.write_bytes((made / "pictures/blue/4.png").read_bytes())
    sheet = tmp_path / "sheet.png"
    args = ["--checkpoint", made / "last.ckpt", "--query", new, "--query", "red/1.png", "--picture", sheet]
    assert run("search", made / "x.npz", *args, "--top", 100) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(new)
    assert lines[2].split() == ["1.0000", "blue/4.png"]
    assert sum(line.startswith("  ") for line in lines) == 2 + 5 + 5
    with Image.open(sheet) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    for bright, dark in ((0, 2), (2, 0)):
        assert ((colours[:, bright] > 190) & (colours[:, dark] < 40)).sum() > 1000
    (tmp_path / "sheet.png").unlink()
    args[-1] = sheet
    assert run("search", made / "x.npz", *args, "--root", tmp_path) == 2
    assert "--picture: no id is a picture below" in capsys.readouterr().err


def test_a_sheet_shows_pictures_upright_and_16_bit(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.full((20, 40), 257 * 100, np.uint16)).save(tmp_path / "b.tif")
    upright, grey = sheet._open(tmp_path / "a.jpg"), sheet._open(tmp_path / "b.tif")
    assert upright is not None
    assert upright.size == (20, 40)
    assert grey is not None
    assert grey.getpixel((0, 0)) == (100, 100, 100)


def test_bad_input(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save(tmp_path / "other.ckpt", 1)
    good = made / "x.parquet"
    file = made / "pictures/red/0.png"
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "broken.png").write_bytes(b"PNG")
    np.savez(tmp_path / "foreign.npz", embedding=np.ones((2, 3), np.float32), id=np.array(["a", "b"]))
    for args, message in (
        ((made / "patches.parquet", "--query", "red/0.png"), "embed again with --pool mean"),
        ((made / "patches.npz", "--query", "red/0.png"), "embed again with --pool mean"),
        ((made / "patches.safetensors", "--query", "red/0.png"), "embed again with --pool mean"),
        ((good, "--query", "0.png"), "near ones: red/0.png"),
        ((good, "--query", "rde/0.pgn"), "near ones: red/0.png"),
        ((good, "--query", "xyz"), "they look like blue/3.png"),
        ((good, "--query", file), "but a file: give --checkpoint too"),
        ((good, "--query", "xyz", "--checkpoint", made / "last.ckpt"), "neither an id in"),
        ((good, "--query", file, "--checkpoint", other), f"which was {made / 'last.ckpt'}; give that one"),
        ((good, "--query", tmp_path / "broken.png", "--checkpoint", made / "last.ckpt"), "cannot be embedded"),
        ((tmp_path / "foreign.npz", "--query", file, "--checkpoint", other), "does not say what it was made with"),
        ((tmp_path / "broken.npz", "--query", "a"), "cannot be read as features"),
        ((tmp_path / "none.npz", "--query", "a"), "there is no such file"),
        ((file, "--query", "a"), "give a file that `d2v embed` wrote"),
        ((good, "--query", "red/0.png", "--output", tmp_path / "x.csv"), "must end with .tsv"),
        ((good, "--query", "red/0.png", "--picture", tmp_path / "x.txt"), "must end with one of .png"),
        ((good, "--query", "red/0.png", "--top", 0), "not at least 1"),
    ):
        assert run("search", *args) == 2, message
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err


def test_equally_near_rows_come_in_their_order() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 1], [3, 0]], np.float32)
    rows, similarities = nearest(vectors, vectors[[3]], 2, [3])
    assert rows.tolist() == [[0, 1]]
    np.testing.assert_allclose(similarities, 1, atol=1e-6)
    rows, _ = nearest(vectors, vectors[[3]], 9, [None])
    assert rows.tolist() == [[0, 1, 3, 2]]
    with pytest.raises(UserError, match="no other row"):
        nearest(vectors[:1], vectors[:1], 3, [0])
    with pytest.raises(UserError, match="not finite"):
        nearest(vectors * np.nan, vectors[:1], 3, [0])
