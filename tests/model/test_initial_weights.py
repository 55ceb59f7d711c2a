"""Initial weights are those of the official constructors, parameter by parameter.

initial_weights.tsv holds the numbers of models that fairseq 3d262bb and data2vec_vision af9a363 constructed at their
published settings: mean, deviation and largest value of each parameter; of those that each block has ("copies"), the
median of means and of deviations. Which of ours it is, the import tells: official tensors of these shapes that hold the
number of their row are translated.
"""

import csv
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml
from encoders import text_encoder, vision_encoder
from test_contracts import load
from torch import Tensor, nn

from d2v.checkpoints.recipe import build_method
from d2v.configs import SHIPPED
from d2v.finetuning.classifier import Classifier
from d2v.finetuning.ctc import CTCModule
from d2v.model.encoder import Encoder
from d2v.official.recognise import read_content
from d2v.training.schedules import TriStage

MODELS = {
    "v1_vision": "vision.yaml",
    "v1_speech": "speech.yaml",
    "v1_text": "text.yaml",
    "v2_vision": "v2/vision.yaml",
    "v2_vision_large": "v2/sizes/large.yaml",
    "v2_speech": "v2/speech.yaml",
    "v2_text": "v2/text.yaml",
}
SIZES = {
    "sizes/large.yaml": "v1_vision",
    "v2/sizes/huge.yaml": "v2_vision",
    "v2/sizes/speech_large.yaml": "v2_speech",
    "v2/sizes/text_large.yaml": "v2_text",
}
SIGMA = 5.0
SETTINGS = {"model": {"instance_norm_target_layer": True, "modalities": {"image": {"inverse_mask": True}}}}

ENCODER = vision_encoder(width=768, depth=1, num_heads=12, num_cls=1)
"""Any of the published width."""


@dataclass
class Row:
    """What the official constructor gave a parameter, or those of all blocks."""

    name: str
    shape: tuple[int, ...]
    copies: int
    mean: float
    std: float
    max_abs: float
    trained: bool

    def check(self, copies: list[Tensor]) -> None:
        """Whether what was drawn once more, perhaps in fewer copies, could be these."""
        mean = median([values.mean().item() for values in copies])
        std = median([values.std().item() for values in copies])
        largest = max(values.abs().max().item() for values in copies)
        if self.std == 0 or not self.trained:  # norms, biases, scales; sines and cosines
            assert [mean, std, largest] == pytest.approx([self.mean, self.std, self.max_abs], abs=1e-5)
            return
        size = math.prod(self.shape)
        number, theirs = len(copies) * size, self.copies * size
        error = SIGMA * self.std * (1 / number + 1 / theirs) ** 0.5
        assert mean == pytest.approx(self.mean, abs=error + 1e-6)
        assert std == pytest.approx(self.std, abs=error + 6e-6)
        if self.max_abs < 2.3 * self.std:  # a uniform distribution, or a normal one that is cut at its deviation
            assert largest == pytest.approx(self.max_abs, rel=20 / number, abs=6e-6)
        else:  # the largest of n normal values is about sqrt(2 ln n) deviations away
            expected = self.max_abs + self.std * (math.sqrt(2 * math.log(number)) - math.sqrt(2 * math.log(theirs)))
            assert largest == pytest.approx(expected, abs=1.5 * self.std)


def table() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    lines = (Path(__file__).parent / "initial_weights.tsv").read_text().splitlines()
    for row in csv.DictReader(lines, delimiter="\t"):
        shape = tuple(map(int, row["shape"].split("x")))
        statistics = (float(row[key]) for key in ("mean", "std", "max_abs"))
        found.setdefault(row["model"], []).append(
            Row(row["parameter"], shape, int(row["copies"]), *statistics, trained=row["trained"] == "yes")
        )
    return found


ROWS = table()


def official_tensors(rows: list[Row]) -> dict[str, Tensor]:
    """By official names; each holds the number of its row."""
    state: dict[str, Tensor] = {}
    met: dict[str, int] = defaultdict(int)
    for number, row in enumerate(rows):
        pattern = row.name.replace(".2.*.", ".2.1.")  # of the extractor's blocks, whose norm lies in a Sequential
        for _ in range(row.copies):
            name = pattern.replace("*", str(met[pattern]))
            met[pattern] += 1
            state[name] = torch.tensor(float(number)).expand(row.shape)
    return state


def method_arguments(name: str, depth: int | None = None) -> dict[str, Any]:
    """Arguments of the method of a shipped recipe, perhaps with fewer blocks."""
    arguments = {"num_masks": 1, "shared_with_teacher": [], **load(name)["model"]["init_args"]}
    for other in ("ema", "optimizer", "schedule"):
        del arguments[other]
    if depth is not None:
        arguments["student"]["trunk"]["depth"] = arguments["targets"]["init_args"]["top_k"] = depth
    return arguments


@pytest.mark.parametrize("model", MODELS)
def test_weights_start_as_the_official_constructor_draws_them(model):
    rows, recipe = ROWS[model], MODELS[model]
    imported = read_content({"model": official_tensors(rows), "cfg": SETTINGS}).weights
    with torch.device("meta"):
        whole = build_method(method_arguments(recipe)).state_dict()
    assert {name for name in whole if not name.startswith("teacher.")} == set(imported)
    for name, value in imported.items():
        assert value.shape == whole[name].shape, name

    torch.manual_seed(0)
    # Two blocks tell as much as twelve, unless each has a deviation of its own.
    method = build_method(method_arguments(recipe, depth=None if model == "v1_vision" else 2))
    parts: dict[int, list[Tensor]] = defaultdict(list)
    for name, value in method.named_parameters():
        if name.startswith("teacher."):
            continue
        source = imported[name].reshape(len(value), -1)[:, 0]  # queries, keys and values are joined, row below row
        for number in source.unique().int().tolist():
            parts[number].append(value.detach()[source == number])
            assert rows[number].trained == value.requires_grad, name
    assert sorted(parts) == list(range(len(rows)))
    wrong = []
    for number, values in parts.items():
        try:
            rows[number].check(values)
        except AssertionError as error:
            wrong.append(f"{rows[number].name}: {str(error).splitlines()[0]}")
    assert not wrong, "\n".join(wrong)
    student = dict(method.student.named_parameters())
    for name, value in method.teacher.named_parameters():
        assert torch.equal(value, student[name.removeprefix("encoder.")]), f"the teacher starts otherwise: {name}"


@pytest.mark.parametrize(("size", "base"), SIZES.items())
def test_larger_models_start_by_the_same_rules(size, base):
    """Normal weights keep their deviation; uniform ones depend on the size of their layer, as torch draws them."""
    rows = ROWS[base]
    imported = read_content({"model": official_tensors(rows), "cfg": SETTINGS}).weights
    arguments = method_arguments(size, depth=2)
    front = arguments["student"]["front"]["init_args"]
    front["prenet_depth"] = min(front.get("prenet_depth", 0), 1)
    if "vocab_size" in front:
        front["vocab_size"] = 1000
    torch.manual_seed(0)
    method = build_method(arguments)
    ours = {name: value.detach() for name, value in method.named_parameters() if not name.startswith("teacher.")}
    for name, value in ours.items():
        row = rows[int(imported[name.replace("front.prenet", "trunk.blocks")].flatten()[0])]
        expected = replace(row, shape=tuple(value.shape), copies=1)
        if name.endswith(".gamma"):
            expected.mean = expected.max_abs = arguments["student"]["trunk"]["layer_scale"]
        elif base == "v1_vision" and name.endswith(("attention.proj.weight", "mlp.2.weight")):
            block = int(name.split(".")[3]) + 1
            expected.std, expected.max_abs = 0.01079 / (2 * block) ** 0.5, 0.02 / (2 * block) ** 0.5
        elif row.std and row.max_abs < 1.8 * row.std:  # uniform
            weight = ours[name.replace(".bias", ".weight")]
            bound = math.prod(weight.shape[1:]) ** -0.5
            if weight.ndim == 4 and name.endswith("feature_extractor.proj.weight"):  # patches: Xavier's (MAE)
                bound = (6 / (len(weight) + math.prod(weight.shape[1:]))) ** 0.5
            expected = _uniform(bound, expected.shape)
        if row.trained:
            try:
                expected.check([value])
            except AssertionError as error:
                pytest.fail(f"{name}: {error}")


def _uniform(bound: float, shape: tuple[int, ...]) -> Row:
    return Row("", shape, 1, 0.0, bound / 3**0.5, bound, trained=True)


def _normal(std: float, shape: tuple[int, ...]) -> Row:
    return Row("", shape, 1, 0.0, std, std * math.sqrt(2 * math.log(math.prod(shape))), trained=True)


def make_head(recipe: str, encoder: Encoder, num_outputs: int) -> nn.Module:
    arguments = yaml.safe_load((SHIPPED / "finetune" / recipe).read_text())["model"]
    kind = {"Classifier": Classifier, "CTCModule": CTCModule}[arguments["class_path"].rpartition(".")[2]]
    known = {"task", "pool", "head", "norm", "head_std", "dropout", "final_dropout"}
    given = {name: value for name, value in arguments["init_args"].items() if name in known}
    unused = {"optimizer": torch.optim.Adam, "schedule": TriStage(0.1, 0.4, 0.5)}
    return kind(encoder=encoder, **unused, **given).make_head(num_outputs)


@pytest.mark.parametrize(
    ("recipe", "std"),
    [
        ("imagenet.yaml", 2e-5),  # modeling_finetune.py, init_scale of run_class_finetuning.py
        ("imagenet_v2.yaml", 0.02),  # mae_image_classification.py
        ("audioset.yaml", None),  # audio_classification.py
        *((f"glue/{path.name}", None) for path in sorted((SHIPPED / "finetune" / "glue").glob("*.yaml"))),  # roberta
    ],
)
def test_heads_of_classifiers_start_as_published(recipe, std):
    torch.manual_seed(0)
    head = make_head(recipe, ENCODER, 1000)
    for layer in head.modules():
        if isinstance(layer, nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
        if isinstance(layer, nn.Linear):
            fan, shape = layer.in_features, tuple(layer.weight.shape)
            expected = _uniform(fan**-0.5, shape) if std is None else _normal(std, shape)
            expected.check([layer.weight.detach()])
            if std is None:
                _uniform(fan**-0.5, shape[:1]).check([layer.bias.detach()])
            else:
                assert (layer.bias == 0).all()


@pytest.mark.parametrize("recipe", sorted(path.name for path in (SHIPPED / "finetune").glob("librispeech_*.yaml")))
def test_heads_of_recognisers_start_as_published(recipe):
    """wav2vec2_asr.py: Xavier's uniform weights, biases of zero."""
    torch.manual_seed(0)
    proj = make_head(recipe, ENCODER, 32).proj
    _uniform((6 / (32 + 768)) ** 0.5, (32, 768)).check([proj.weight.detach()])
    assert (proj.bias == 0).all()


def test_text_of_padding_starts_at_zero():
    """fairseq's ``init_bert_params``: the row of <pad>."""
    table = text_encoder(width=32, depth=1, num_heads=2, vocab_size=60).get_parameter(
        "front.feature_extractor.embedding.weight"
    )
    assert (table[1] == 0).all()
    assert (table[[0, 2, 59]].std(dim=1) > 0.01).all()
