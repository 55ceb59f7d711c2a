"""What autocast means for operations that torch does not know."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype:
    """What matrix products with ``x`` are computed in where we are."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
