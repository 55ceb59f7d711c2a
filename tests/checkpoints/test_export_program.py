"""`d2v export --format torch` and `onnx`: the file alone computes what the model does, at any size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from exporting import classifier, linear_head, make_encoder, recogniser, run_export, save

from d2v.checkpoints.export import program
from d2v.errors import UserError
from d2v.model.encoder import mean_of_tokens
from d2v.nn.task_heads import ClassifierHead, TanhHead


@pytest.fixture(autouse=True)
def without_shape_checks() -> Iterator[None]:
    """Tracing puts symbols in place of the sizes, which the checks of tests/shape_checks.py take for mistakes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


SYMBOLS = ["<blank>", "|", "A"]
CASES = {
    "speech1": [(1, 60), (2, 51), (4, 333)],
    "speech2_ten": [(1, 60), (2, 51), (4, 333)],
    "audio": [(1, 8, 8), (2, 64, 8), (4, 44, 8)],
    "text1": [(1, 5), (2, 30), (4, 2)],
    "text2": [(1, 5), (2, 55), (4, 2)],
    "vision1": [(1, 16, 24), (2, 8, 40), (4, 32, 20)],
    "vision2": [(1, 16, 24), (2, 8, 40), (4, 32, 20)],
}


def inputs(kind: str, batch: int, *size: int) -> tuple[torch.Tensor, ...]:
    """Random ones; of several clips or texts the last is padded."""
    if len(size) > 1:
        return (torch.randn(batch, 1 if kind == "audio" else 3, *size),)
    length = size[0]
    x = torch.randn(batch, length) if kind.startswith("speech") else torch.randint(0, 40, (batch, length))
    mask = torch.zeros(batch, length, dtype=torch.bool)
    if batch > 1 and length > 30:
        mask[-1, -20:] = True
    return x, mask


def onnx_outputs(folder: Path, *example: torch.Tensor) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [node.name for node in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, example, strict=True)})


def torch_outputs(folder: Path, *example: torch.Tensor) -> list[np.ndarray]:
    return [value.detach().numpy() for value in torch.export.load(folder / "model.pt2").module()(*example)]


@pytest.mark.parametrize("kind", CASES)
def test_features_at_other_sizes(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    encoder = make_encoder(kind, depth=1)
    checkpoint = save(tmp_path / "a.ckpt", encoder)
    folders = {form: run_export(checkpoint, form, tmp_path / form) for form in ("torch", "onnx")}
    assert capsys.readouterr().out.count("largest difference from the eager model") == 2
    for sizes in CASES[kind]:
        example = inputs(kind, *sizes)
        with torch.no_grad():
            output = encoder(*example)
        valid = torch.ones(output.tokens.shape[:2], dtype=torch.bool)
        if output.padding_mask is not None:
            valid = ~output.padding_mask
        for form, compute in (("torch", torch_outputs), ("onnx", onnx_outputs)):
            found = compute(folders[form], *example)
            np.testing.assert_allclose(found[0][valid], output.tokens[valid], atol=2e-5)
            if kind.startswith("speech"):
                np.testing.assert_array_equal(found[1], ~valid)


def test_recogniser(tmp_path: Path) -> None:
    encoder, head = make_encoder("speech1", depth=1), linear_head(3)
    folder = run_export(save(tmp_path / "a.ckpt", encoder, head, **recogniser(SYMBOLS)), "torch", tmp_path / "torch")
    example = inputs("speech1", 2, 200)
    with torch.no_grad():
        tokens = encoder(*example)
        expected = torch.nn.functional.linear(tokens.tokens, head["proj.weight"], head["proj.bias"]).log_softmax(-1)
    found = torch_outputs(folder, *example)
    np.testing.assert_allclose(found[0][~tokens.padding_mask], expected[~tokens.padding_mask], atol=2e-5)
    assert "Symbols: <blank> | A" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "pool", "parts"), [("speech2", "mean", {"norm": True}), ("text1", "cls", {"tanh": True})]
)
def test_classifier(tmp_path: Path, kind: str, pool: str, parts: dict[str, bool]) -> None:
    encoder, head = make_encoder(kind, depth=1), linear_head(2, **parts)
    ours = classifier(["no", "yes"], head, pool)
    checkpoint = save(tmp_path / "a.ckpt", encoder, head, assets={"tokenizer.json": "{}"}, **ours)
    folder = run_export(checkpoint, "torch", tmp_path / "torch")
    module = (TanhHead if "tanh" in parts else ClassifierHead)(16, 2, "norm" in parts, 0.0, 1e-5).eval()
    module.load_state_dict(head)
    example = inputs(kind, 3, 30 if kind == "text1" else 300)
    with torch.no_grad():
        output = encoder(*example)
        pooled = output.cls[:, 0] if pool == "cls" else mean_of_tokens(output.tokens, output.padding_mask)
        expected = module(pooled)
    np.testing.assert_allclose(torch_outputs(folder, *example)[0], expected, atol=2e-5)
    assert "Classes, in order: no, yes" in (folder / "README.md").read_text()
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_a_program_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Any, traced: Any, examples: Any, file: Path) -> Any:
        file.write_bytes(b"")
        return lambda *example: [value + 0.01 if value.is_floating_point() else value for value in model(*example)]

    monkeypatch.setitem(program._WRITE, "torch", wrong)
    monkeypatch.setattr(program, "_traced", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"differs from the model by 0\.01, more than 0\.0001"):
        run_export(save(tmp_path / "a.ckpt", make_encoder("text1")), "torch", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"--format onnx needs onnxscript.*pip install 'onnx>=\S+ .*'onnxscript>="):
        run_export(tmp_path / "none.ckpt", "onnx", tmp_path / "new")
