"""How many dimensions a set of vectors really uses."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def effective_rank(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the normalised singular values of the centred ``x`` (Roy & Vetterli 2007).

    Between 1 (all vectors on one line, or all the same) and ``min(n - 1, d)`` (the same spread in every direction);
    neither scale nor rotation matters. The singular values are the roots of the eigenvalues of the smaller Gram matrix,
    which is computed in fp64: in fp32 the roots of its rounding errors would pass for dimensions. Take no more than a
    few thousand rows: they cost nothing, and the answer hardly changes beyond a few times ``d``. NaN if ``x`` holds a
    number that is not finite: an overflow in fp16, which the gradient scaler skips, must not end a run.
    """
    if x.device.type == "mps":  # has no fp64
        x = x.cpu()
    x = x.double()
    x = x - x.mean(dim=0)
    if x.shape[1] > x.shape[0]:
        x = x.T
    gram = x.T @ x
    finite = gram.isfinite().all()
    singular = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=torch.finfo(x.dtype).tiny)
    return torch.where(finite, torch.special.entr(share).sum().exp(), torch.nan).float()
