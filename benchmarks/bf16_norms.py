"""How far bf16 is from fp32 in a step, with norms and residuals in bf16 (ours) and in fp32 (as autocast does on a GPU).

    python benchmarks/bf16_norms.py

Base models of three recipes with their first weights, the same weights, masks and noise; relative errors of the loss
and of all gradients together, three seeds. It runs on a CPU, whose bf16 products are rounded as those of a GPU are.
"""

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor

from d2v import from_recipe
from d2v.nn.layer_norm import LayerNorm
from d2v.types import Batch

OURS = LayerNorm.forward


def in_fp32(norm: LayerNorm, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def main() -> None:
    for recipe in ("vision.yaml", "v2/vision.yaml", "v2/text.yaml"):
        rows: dict[str, list[tuple[float, float]]] = {"bf16": [], "fp32": []}
        for seed in (1, 2, 3):
            torch.manual_seed(seed)
            changes = {"model.num_masks": 2} if recipe.startswith("v2") else {}
            method = from_recipe(recipe, **changes).method
            inputs = torch.randn(2, 3, 224, 224)
            if "text" in recipe:
                inputs = torch.randint(4, 50_000, (1, 512))
            ids = torch.arange(len(inputs)) + 10 * seed
            batches = {"": Batch(inputs, ids, torch.zeros_like(ids))}
            exact = step(method, batches, None)
            for name, forward in (("bf16", OURS), ("fp32", in_fp32)):
                LayerNorm.forward = forward  # type: ignore[method-assign]
                loss, gradient = step(method, batches, torch.bfloat16)
                LayerNorm.forward = OURS  # type: ignore[method-assign]
                error = (gradient - exact[1]).norm() / exact[1].norm()
                rows[name].append((abs(loss / exact[0] - 1), float(error)))
        for name, found in rows.items():
            losses, errors = zip(*found, strict=True)
            print(
                f"{recipe:<16} norms in {name}: loss off by {statistics.mean(losses):.1e}, gradients by "
                f"{statistics.mean(errors):.4f} ({min(errors):.4f} to {max(errors):.4f})",
                flush=True,
            )


def step(method: torch.nn.Module, batches: dict[str, Batch], dtype: torch.dtype | None) -> tuple[float, Tensor]:
    """Loss and gradients, fp32."""
    torch.manual_seed(0)
    method.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = method(batches, 1)[""].loss
    loss.backward()
    gradients = []
    for parameter in method.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad.flatten().clone())
    return float(loss), torch.cat(gradients)


if __name__ == "__main__":
    main()
