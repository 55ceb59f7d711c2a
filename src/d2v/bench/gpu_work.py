"""What a step asks of a GPU: kernels, how long it has none to run, and how often the host waits for it."""

import warnings
from collections.abc import Generator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def gpu_work(device: torch.device) -> Generator[None, None, dict[str, Any]]:
    """Of two training steps, each a ``yield``: kernels of one, share of its time in which none runs, waits."""
    found: dict[str, Any] = {"kernels": None, "idle_share": None, "synchronisations": None}
    if device.type != "cuda":
        return found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode("default")
    found["synchronisations"] = sum("synchronizing" in str(each.message) for each in caught)
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        yield
        torch.cuda.synchronize(device)
    spans = []
    for event in profiled.events():
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            spans.append((event.time_range.start, event.time_range.end))
    if not spans:  # the driver lets nobody look
        return found
    spans.sort()
    busy, until = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    found["kernels"] = len(spans)
    found["idle_share"] = 1 - busy / (until - spans[0][0])
    return found
