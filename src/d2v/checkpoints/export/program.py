"""`d2v export --format torch` and `onnx`: one file that computes features or scores, without d2v."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from d2v.checkpoints.export.card import model_card
from d2v.checkpoints.folder import new_folder
from d2v.checkpoints.head_files import StoredHead
from d2v.checkpoints.opening import CARD, Checkpoint
from d2v.errors import UserError, how_to_install
from d2v.model.encoder import Encoder, mean_of_tokens
from d2v.model.example_inputs import ExampleInputs

MOST = 1e-4
"""Largest tolerable difference from the eager model, in fp32."""
_CHECKS = ((1, 0), (2, 2), (5, 1))  # (samples, size); traced with (3, 1)
_FILES = {"torch": "model.pt2", "onnx": "model.onnx"}
_USE = {
    "torch": """```python
import torch
model = torch.export.load("{name}/model.pt2").module()
{outputs} = model({inputs})
```""",
    "onnx": """```python
import onnxruntime
session = onnxruntime.InferenceSession("{name}/model.onnx")
{outputs} = session.run(None, {{{feed}}})
```""",
}


class Program(nn.Module):
    """An encoder, with the head of a fine-tuned model: gives tokens, log-probabilities of symbols or scores of classes.

    Args:
        encoder: In eval mode.
        head: Head of a fine-tuned model.
    """

    def __init__(self, encoder: Encoder, head: StoredHead | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: nn.Module = nn.Identity()
        self.output, self.pool = "tokens", "none"
        if head is not None:
            self.head, self.pool = head.module, head.pool
            self.output = "log_probs" if head.task == "ctc" else "scores"
        reads_padding = "padding_mask" in encoder.front.example_inputs().names
        stride = getattr(encoder.front.feature_extractor, "stride", 1)
        self.tells_padding = self.pool == "none" and reads_padding and stride > 1
        """Whether tokens are padded at a rate of their own, which the second output tells."""

    @property
    def outputs(self) -> list[str]:
        if self.tells_padding:
            return [self.output, "output_padding"]
        return [self.output]

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        output = self.encoder(x, padding_mask)
        features = output.tokens
        if self.pool == "mean":
            features = mean_of_tokens(output.tokens, output.padding_mask)
        elif self.pool == "cls":
            features = output.mean_cls
        result = self.head(features)
        if self.tells_padding:
            return result, output.padding_mask
        return (result,)


def export_program(
    checkpoint: Checkpoint, encoder: Encoder, head: StoredHead | None, output: Path, form: str
) -> list[str]:
    """Write the folder, and compare the program with the eager model at sizes other than those used for tracing.

    Args:
        checkpoint: What is exported.
        encoder: The student or the teacher of the checkpoint.
        head: The head of the checkpoint, if it is fine-tuned.
        output: A new folder.
        form: "torch" or "onnx".

    Returns:
        What was written, in words.

    Raises:
        UserError: The extra is missing, something is at ``output`` already, or it cannot be written.
        RuntimeError: The program differs from the model by more than 1e-4.
    """
    program, inputs = Program(encoder, head).eval(), encoder.front.example_inputs()
    assets = checkpoint.encoder().assets
    with new_folder(output) as folder:
        file = folder / _FILES[form]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            compute = _WRITE[form](program, _traced(program, inputs), inputs, file)
            difference = largest_difference(program, compute, inputs)
        if not difference <= MOST:
            raise RuntimeError(f"the {form} program differs from the model by {difference:.2g}, more than {MOST:g}")
        for name, text in assets.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / CARD).write_text(_card(output.name, checkpoint, head, program, inputs, form), encoding="utf-8")
    sizes = ", ".join(str(list(inputs.make(*check)[0].shape)) for check in _CHECKS)
    return [_FILES[form], *assets, f"largest difference from the eager model {difference:.2g} (x of {sizes})"]


def require_onnx() -> None:
    """Raise a UserError if the extra is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # type: ignore[import-untyped]  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx needs {error.name}, which is not installed: {how_to_install('onnx')}"
        ) from error


def largest_difference(program: Program, compute: Callable[..., Any], inputs: ExampleInputs) -> float:
    """Between the eager model and the program, at three sizes, padding left out; NaN counts as infinite."""
    largest = 0.0
    for check in _CHECKS:
        example = inputs.make(*check)
        with torch.no_grad():
            expected, found = program(*example), compute(*example)
        keep = torch.ones(1, dtype=torch.bool)
        if program.pool == "none" and len(example) > 1:
            padding = expected[1] if program.tells_padding else example[1]
            keep = ~padding[..., None]
        difference = ((expected[0] - found[0]).abs() * keep).nan_to_num(torch.inf)
        largest = max(largest, float(difference.max()))
        if program.tells_padding and not torch.equal(expected[1], found[1]):
            return float("inf")
    return largest


def _traced(program: Program, inputs: ExampleInputs) -> torch.export.ExportedProgram:
    example = inputs.make(3, 1)
    # Attention in plain operations: the layout in memory of a fused kernel would be part of the program.
    with _quiet(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(program, example, dynamic_shapes=inputs.dynamic, strict=False)


def _write_torch(
    program: Program, traced: torch.export.ExportedProgram, inputs: ExampleInputs, file: Path
) -> Callable[..., Any]:
    torch.export.save(traced, file)
    return torch.export.load(file).module()


def _write_onnx(
    program: Program, traced: torch.export.ExportedProgram, inputs: ExampleInputs, file: Path
) -> Callable[..., Any]:
    import onnxruntime

    names = list(inputs.names)
    with _quiet(), torch.no_grad():
        exported = torch.onnx.export(
            traced, input_names=names, output_names=program.outputs, dynamo=True, verbose=False
        )
    assert exported is not None
    exported.save(file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def compute(*example: Tensor) -> list[Tensor]:
        feed = dict(zip(names, map(Tensor.numpy, example), strict=True))
        return list(map(torch.from_numpy, session.run(None, feed)))

    return compute


_WRITE = {"torch": _write_torch, "onnx": _write_onnx}


class _quiet(warnings.catch_warnings):
    """Hide torch's warnings about its own tracing."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self.level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    def __exit__(self, *details: Any) -> None:
        logging.getLogger("torch.onnx").setLevel(self.level)
        super().__exit__(*details)


def _card(
    name: str, checkpoint: Checkpoint, head: StoredHead | None, program: Program, inputs: ExampleInputs, form: str
) -> str:
    feed = ", ".join(f'"{key}": {key}' for key in inputs.names)
    outputs = ", ".join(program.outputs)
    if len(program.outputs) == 1:
        outputs += ","
    use = _USE[form].format(name=name, outputs=outputs, inputs=", ".join(inputs.names), feed=feed)
    meaning = {
        "tokens": "`tokens`: float32 [B, N, D], the features of each patch, frame or token",
        "log_probs": "`log_probs`: float32 [B, N, symbols], logarithms of probabilities, the blank of CTC first",
        "scores": "`scores`: float32 [B, classes], before softmax or sigmoid; of a regression the value",
    }[program.output]
    lines = [f"Input {inputs.described}.", f"Output {meaning}."]
    if program.tells_padding:
        lines.append("`output_padding`: bool [B, N], true where a frame is padding; what stands there means nothing.")
    if head is not None and head.names:
        if head.task == "ctc":
            lines.append(f"Symbols: {' '.join(head.names)}")
        else:
            lines.append(f"Classes, in order: {', '.join(head.names)}")
    return model_card(name, checkpoint, {"torch": "pytorch", "onnx": "onnx"}[form], "\n\n".join([use, *lines]))
