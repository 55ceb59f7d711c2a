"""The Python API: every example of docs/python.md runs, and `import d2v` stays quick."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import d2v

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from d2v.demo import photos

    monkeypatch.chdir(tmp_path)
    few = functools.partial(photos.prepare_photos, train_crops=20, val_crops=4)
    monkeypatch.setattr(photos, "prepare_photos", few)
    generator = np.random.default_rng(0)
    (tmp_path / "recordings").mkdir()
    for number in range(3):
        soundfile.write(f"recordings/{number}.wav", generator.uniform(-0.5, 0.5, 32_000), 16_000)
    documents = [f"Document {number} says that {number * 7} is a number.\nSo it is." for number in range(200)]
    Path("corpus.txt").write_text("\n\n".join(documents))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) >= 5
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), names)
    assert Path("features.parquet").is_file()
    assert {path.name for path in Path("media").iterdir()} == {"masks.png", "features_pca.png", "curves.png"}


def test_the_table_names_every_function() -> None:
    described = set(re.findall(r"`d2v\.(\w+)\(", PAGE.read_text()))
    assert described == set(d2v.__all__) - {"__version__"}
    for name in described:
        assert getattr(d2v, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        d2v.nothing  # noqa: B018


def test_importing_d2v_is_quick() -> None:
    code = "import sys, d2v; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False False\n"
