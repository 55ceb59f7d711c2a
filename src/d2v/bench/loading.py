"""How fast data are read, decoded and put together, in one process and in several."""

import importlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from d2v.bench.loading_peers import peers_of
from d2v.bench.stopwatch import Clock, Stopwatch
from d2v.data.data_module import PretrainingDataModule
from d2v.data.loading_processes import StreamLoader
from d2v.data.samples import SampleDataset

H100 = {"images": 860.0, "audio_seconds": 6000.0}
"""Units a second that keep one H100 busy at our goals: 2.0 vision Base, 1.0 speech Base."""


class LoadingResult(dict[str, Any]):
    """What was measured, by name; its text is a table."""

    def __str__(self) -> str:
        unit = self["unit"].replace("_", " ")
        lines = [f"one core    {self['units_per_second_a_core']:,.0f} {unit} a second of its time"]
        for stage, share in self["stages"].items():
            lines.append(f"  {stage:<10}{share:7.1%}")
        lines.append(f"workers     {self['workers']}: {self['units_per_second']:,.0f} {unit} a second")
        if self["cores_for_an_h100"] is not None:
            needed = H100[self["unit"]]
            lines.append(f"an H100     needs {self['cores_for_an_h100']:.1f} cores for {needed:,.0f} {unit} a second")
        for name, peer in self["peers"].items():
            lines.append(
                f"peer        {name}: {peer['units_per_second_a_core']:,.0f} a core, ours over it "
                f"{peer['ours_over_peer']:.2f} times"
            )
        return "\n".join(lines)


def time_loading(data: PretrainingDataModule, seconds: float, peers: bool) -> LoadingResult:
    """Load training batches for a while: here, in loading processes, and as others do.

    Args:
        data: Set up.
        seconds: That each of the two lasts.
        peers: Whether others load the same samples, batch by batch beside it.

    Raises:
        UserError: Others cannot read these samples.
    """
    dataset = data.train_dataset()
    sampler = data.train_sampler(dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loading process
    try:
        others = peers_of(data, dataset) if peers else {}
        alone = _one_process(data, dataset, sampler.endless(), seconds, others)
    finally:
        torch.set_num_threads(threads)
    with_workers = _in_processes(data, seconds)
    rate, unit = alone["units_per_second_a_core"], data.unit
    cores = H100[unit] / rate if unit in H100 else None
    return LoadingResult({"unit": unit, **alone, **with_workers, "cores_for_an_h100": cores})


def _one_process(
    data: PretrainingDataModule,
    dataset: SampleDataset,
    batches: Iterator[list[tuple[int, int]]],
    seconds: float,
    others: Mapping[str, Callable[[list[tuple[int, int]]], Any]],
) -> dict[str, Any]:
    stages, clock = Stopwatch(), Clock(torch.device("cpu"), time.process_time)
    rates: dict[str, list[float]] = {name: [] for name in ["", *others]}
    collate = stages.wrap(data.collate, "collate")
    # augment: all that is in none of the others
    samples = stages.wrap(lambda keys: [dataset[key] for key in keys], "augment")
    load = {"": lambda keys: collate(samples(keys)), **others}
    with _timed(dataset.stages, stages):
        for number in itertools.count():
            keys = next(batches)
            units = 0.0
            for name, function in load.items():
                began = time.process_time()
                made = function(keys)
                passed = time.process_time() - began
                if not name:
                    units = float(data.count_units(made))
                rates[name].append(units / max(passed, 1e-9))
            if number == 0:  # what is done once
                stages.begin(clock)
                for measured in rates.values():
                    measured.clear()
                ends = time.monotonic() + seconds
            elif time.monotonic() >= ends and number >= 3:
                break
    of_stages = stages.end()
    of_stages.pop(stages.outside, None)
    total = sum(of_stages.values())
    found: dict[str, dict[str, float]] = {}
    for name in others:
        ratios = [ours / theirs for ours, theirs in zip(rates[""], rates[name], strict=True)]
        rate = statistics.median(rates[name])
        found[name] = {"units_per_second_a_core": rate, "ours_over_peer": statistics.median(ratios)}
    shares = {stage: seconds / total for stage, seconds in sorted(of_stages.items())}
    return {"units_per_second_a_core": statistics.median(rates[""]), "stages": shares, "peers": found}


@contextmanager
def _timed(stages: Mapping[str, tuple[str, ...]], stopwatch: Stopwatch) -> Iterator[None]:
    """Inside, calls of these methods, given by their full names, are time of their stage."""
    replaced = []
    for stage, names in stages.items():
        for name in names:
            path, method = name.rsplit(".", 1)
            module, owner = path.rsplit(".", 1)
            parent = getattr(importlib.import_module(module), owner)
            replaced.append((parent, method, getattr(parent, method)))
            setattr(parent, method, stopwatch.wrap(getattr(parent, method), stage))
    try:
        yield
    finally:
        for parent, method, function in replaced:
            setattr(parent, method, function)


def _in_processes(data: PretrainingDataModule, seconds: float) -> dict[str, Any]:
    loader = data.train_dataloader()
    assert isinstance(loader, StreamLoader)
    units, began, ends = 0.0, 0.0, float("inf")
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        if not began:  # the first has waited for the processes to start
            began = time.monotonic()
            ends = began + seconds
            continue
        units += float(data.count_units(batch))
        if time.monotonic() >= ends:
            break
    return {"workers": loader.num_workers, "units_per_second": units / (time.monotonic() - began)}
