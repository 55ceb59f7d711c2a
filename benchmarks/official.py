"""The official code beside ours on a CPU: its training step, checked against the golden tensors, then timed.

    python benchmarks/official.py check ../shared/reference/fixtures
    python benchmarks/official.py time --config v2/speech.yaml --batch_size 4 --data.max_seconds 4

`official_packages.sh FOLDER` says which packages it takes and how they are patched; then
`PYTHONPATH=FOLDER` finds them. What is the official code, and what is not:

- 1.0 speech and text: `Data2VecAudioModel` and `Data2VecTextEncoder` of fairseq 0.12.2, with its `EMAModule`.
- 2.0: blocks, encoders, decoder of sequences and all that they compute are the official classes that FunASR ships for
  emotion2vec (`funasr.models.emotion2vec`). No package has the model around them, the encoders of text and pictures or
  the decoder of pictures: these do the official operations in their order (facts: fairseq's `data2vec2.py`,
  `modalities/text.py`, `images.py`, `modules.py`, at 3d262bb).
- 1.0 vision: in no package; the operations of data2vec_vision's `modeling_cyclical.py`, `modeling_finetune.py` and
  `engine_for_cyclical.py` in their order, with torch's AdamW as there.
- Adam and clipping are fairseq's own; vision 1.0 has torch's, as there.

Nothing is crippled, and in doubt it is the official side that has less to do: it is given our masks and draws none, its
inputs have no padding, the norms of its weights (2.0, `log_norms`) and its meters are left out.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.optim.adam import Adam
from official_models import Official2, Speech1, Text1, Vision1
from official_settings import settings_of
from torch import Tensor

from d2v.bench.steps import TimedSteps
from d2v.commands import bench, bench_recipe


def make_official(module: Any, device: torch.device) -> dict[str, Callable[..., None]]:
    """The official step of a recipe, as `benchmarks/peers.py` gives the others: of the same sizes, batch and masks."""
    front, trainer = module.method.student.front, module.trainer
    kind = type(front).__name__.removesuffix("FrontEnd").lower()
    second = type(front.masked_input).__name__ == "DropMasked"
    settings = settings_of(module, kind, second)
    if second:
        model: Any = Official2(settings, getattr(front, "vocab_size", 0))
    elif kind == "speech":
        model = Speech1(settings)
    elif kind == "text":
        model = Text1(settings, front.vocab_size, front.masked_input.mask_id)
    else:
        model = Vision1(settings)
    model.train()
    group = trainer.optimizers[0].param_groups[0]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours = sum(each.numel() for each in module.method.parameters() if each.requires_grad)
    theirs = sum(each.numel() for each in parameters)
    assert abs(theirs / ours - 1) < 0.02, f"the official model trains {theirs:,} parameters, and the recipe {ours:,}"
    options = {name: group[name] for name in ("betas", "eps", "weight_decay")}
    if isinstance(model, Vision1):
        optimizer: Any = torch.optim.AdamW(parameters, lr=1e-6, foreach=False, **options)
    else:
        optimizer = Adam(parameters, lr=1e-6, **options)
    updates = 0

    def step(batch: Any, mask: Any) -> None:
        nonlocal updates
        updates += 1
        train_step(model, optimizer, parameters, batch.inputs, mask.masked, trainer.gradient_clip_val or 0.0, updates)

    return {"official": step}


def train_step(
    model: Any, optimizer: Any, parameters: list[Any], source: Tensor, mask: Tensor, clip: float, updates: int
) -> float:
    """fairseq's `Trainer.train_step`, or data2vec_vision's loop."""
    total, count = model.losses(source, mask)
    total.backward()
    if isinstance(model, Vision1):
        torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=False)
    else:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.data.mul_(1 / count)
        utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    model.average(updates)
    return float(total.detach() / count)


def check(folder: str) -> None:
    """Loss, gradients, weights and teacher after a step, beside the golden tensors of the official code."""
    for name in ("v1_audio", "v1_text", "v1_vision", "v2_audio", "v2_text", "v2_image"):
        golden = torch.load(f"{folder}/{name}.pt", weights_only=True)
        config, inputs, state = golden["config"], golden["inputs"], golden["state_dict"]
        prefix, teacher = "", state.pop("_ema", None)
        if name == "v1_audio":
            model: Any = Speech1(config)
            source, mask = inputs["source"], inputs["mask_indices"]
            model.model.load_state_dict({**state, "_ema": teacher})
            prefix = "model."
        elif name == "v1_text":
            model = Text1(config, golden["vocab"], golden["mask_token_index"])
            source, mask = inputs["target_tokens"], inputs["src_tokens"] == golden["mask_token_index"]
            prefix, teacher = "model.", state["encoder._ema"]
            weights = {key.removeprefix("encoder."): value for key, value in state.items()}
            model.model.load_state_dict(weights, strict=False)
        elif name == "v1_vision":
            model = Vision1(
                config | {"top_k": len(golden["engine"]["target_layers"]), "beta": golden["engine"]["l1_beta"]}
            )
            source, mask = inputs["img"], inputs["mask"].flatten(1).bool()
            model.load_state_dict(state)
            model.teachers[0].load_state_dict(golden["ema_state_dict"])
        else:
            model = Official2(config, len(state.get("modality_encoders.TEXT.local_encoder.embed_tokens.weight", ())))
            source, mask = inputs["source"], inputs["precomputed_mask"]
            model.load_state_dict(state)
            model.teachers[0].load_state_dict(teacher, strict=False)
            model.fp32 = {key: value.clone() for key, value in teacher.items()}
        total, count = model.train().losses(source, mask)
        total.backward()
        worst, parameters = 0.0, dict(model.named_parameters())
        least = 1e-4 * math.sqrt(sum(float(each.square().sum()) for each in golden["grads"].values()))  # biases of keys
        for key, gradient in golden["grads"].items():
            ours = parameters[prefix + key.removeprefix("encoder.") if name == "v1_text" else prefix + key].grad / count
            worst = max(worst, float((ours - gradient).norm() / gradient.norm().clamp(min=least)))
        loss, wanted = float(total.detach() / count), float(golden["loss"])
        print(f"{name:<10} loss {loss:.6f}, golden {wanted:.6f}; gradients differ by {worst:.1e} at most")
        assert abs(loss / wanted - 1) < 1e-5
        assert worst < 1e-3


def compare(self: Any, trainer: Any, module: Any) -> Iterator[None]:
    """In place of what `d2v bench` measures: a step of ours, one of theirs, a product of matrices, and again."""
    official = make_official(module, module.device)["official"]
    a, b = torch.randn(2, 2048, 2048)
    rows = []
    for number in range(self.steps + 1):
        moments = [_now()]
        yield
        moments.append(_now())
        outputs, batch = self._step
        official(batch, outputs["outputs"][""].mask)
        moments.append(_now())
        torch.mm(a, b)
        moments.append(_now())
        if number:  # the first ones warm up
            rows.append([after - before for before, after in itertools.pairwise(moments)])
    self.result = {"batch": self._shapes(), "gflop": self._flops(module) / 1e9}
    for number, clock in enumerate(("wall", "process")):
        times = [[part[number] for part in row] for row in rows]
        ratios = [theirs / ours for ours, theirs, _ in times]
        shares = [self.result["gflop"] / ours / (2 * 2.048**3 / product) for ours, _, product in times]
        self.result[clock] = {
            "ours": statistics.median(row[0] for row in times),
            "official_over_ours": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
            "share_of_limit": statistics.median(shares),
            "gflops_of_limit": 2 * 2.048**3 / statistics.median(row[2] for row in times),
        }  # fmt: skip


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def main() -> None:
    """See the head of this file."""
    if sys.argv[1] == "check":
        check(sys.argv[2])
        return
    bench_recipe._peers = lambda: make_official  # in place of benchmarks/peers.py
    TimedSteps._measure = compare
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    words = bench.parse_args(parser, sys.argv[2:])
    found = bench_recipe.bench_recipe(
        words.config, steps=words.steps, batch_size=words.batch_size, precision="32", device="cpu", peers=True,
        **words.overrides,
    )  # fmt: skip
    print(json.dumps(found))
    for clock in ("wall", "process"):
        print(clock, {name: round(float(value), 3) for name, value in found[clock].items()})


if __name__ == "__main__":
    main()
