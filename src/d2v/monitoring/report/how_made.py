"""The parts of a page that tell how a run was made, and how to go on with it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from d2v import metrics
from d2v.monitoring.report.markup import NOTHING, Markup, Section, chip, element, joined, table
from d2v.monitoring.report.run_record import CONFIG, RunRecord
from d2v.monitoring.report.sections import devices_of, run_title, when

_MOST_NAMES = 100
_ENVIRONMENT = {
    "time": "started",
    "step": "at step",
    "command": "command",
    "folder": "in folder",
    "host": "host",
    "system": "system",
    "cores": "CPU cores",
    "threads": "threads",
    "devices": "devices",
    "processes": "processes",
    "precision": "precision",
    "d2v": "d2v",
    "commit": "commit (+: with changes)",
    "python": "Python",
    "torch": "torch",
    "lightning": "Lightning",
    "cuda": "CUDA",
}


def configs(runs: Sequence[RunRecord]) -> Section:
    """What differs between runs, what has changed in each, and all of each."""
    blocks: list[object] = []
    if len(runs) > 1:
        flat = [dict(_flat(run.config, "")) for run in runs]
        head = ["key", *(chip(index, run.name) for index, run in enumerate(runs))]
        blocks.append(_difference(head, flat, "The configs are the same."))
    for index, run in enumerate(runs):
        blocks.append(run_title(runs, index))
        for step, earlier in run.earlier_configs.items():
            head = ["key", f"until step {step:,}", "later"]
            both = [dict(_flat(earlier, "")), dict(_flat(run.config, ""))]
            blocks.append(_difference(head, both, f"At step {step:,} it went on with the same config."))
        text = f"no {CONFIG}"
        if run.config:
            text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        blocks.append(element("details", element("summary", CONFIG), element("pre", text)))
    return Section("config", "Config" if len(runs) == 1 else "Configs, and where they differ", joined(blocks))


def _difference(head: Sequence[object], configs: Sequence[Mapping[str, str]], if_none: str) -> Markup:
    keys: dict[str, None] = {}
    for config in configs:
        keys |= dict.fromkeys(config)
    rows = []
    for key in keys:
        values = [config.get(key, NOTHING) for config in configs]
        if len(set(values)) > 1:
            rows.append([element("code", key), *values])
    if not rows:
        return element("p", if_none)
    return table(head, rows)


def _flat(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Values by their keys as one types them."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            inner = key if name == "init_args" else f"{key}.{name}"
            yield from _flat(value, inner)
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for number_, item in enumerate(node):
            yield from _flat(item, f"{key}[{number_}]")
    else:
        yield key.removeprefix("."), "null" if node is None else str(node)


def skipped(runs: Sequence[RunRecord]) -> Section:
    """Files that could not be read."""
    blocks: list[object] = []
    for index, run in enumerate(runs):
        count = 0
        for name, curve in run.curves.items():
            if name.startswith(metrics.SKIPPED) and len(curve.values):
                count += int(curve.values[-1])
        count = max(count, len(run.skipped))
        if not count:
            text = element("p", "None, as far as is known.")
        else:
            named = run.skipped[:_MOST_NAMES]
            more = f"\n… {count - len(named):,} more" if count > len(named) else ""
            text = joined(
                [element("p", f"{count:,} samples could not be read."), element("pre", "\n".join(named) + more)]
            )
        blocks += [run_title(runs, index), text]
    return Section("skipped", "Skipped files", joined(blocks))


def environment(runs: Sequence[RunRecord]) -> Section:
    """Versions and machine of each start."""
    head: list[object] = [""]
    columns = []
    for index, run in enumerate(runs):
        for start in run.starts:
            head.append(chip(index, run.name))
            columns.append(start)
    if not columns:
        return Section("environment", "Environment", element("p", "The run has no history.jsonl, which would say it."))
    rows = []
    for key, title in _ENVIRONMENT.items():
        cells = []
        for start in columns:
            value = start.get(key)
            if key == "time":
                value = when(float(value or 0))
            elif key == "devices":
                value = devices_of(start)
            elif key == "command" and value:
                value = element("code", value)
            cells.append(NOTHING if value is None else value)
        rows.append([title, *cells])
    return Section("environment", "Environment", table(head, rows))


def how_to_continue(runs: Sequence[RunRecord]) -> Section:
    """Commands to copy."""
    blocks: list[object] = []
    for index, run in enumerate(runs):
        text = element("pre", "\n".join(_commands(run)), class_="commands")
        blocks += [run_title(runs, index), text]
    return Section("continue", "How to go on", joined(blocks))


def _commands(run: RunRecord) -> Iterator[str]:
    """Lines of a shell."""
    folder = shlex.quote(str(run.folder))
    start = run.starts[-1] if run.starts else {}
    if start.get("folder") and not run.folder.is_absolute():
        yield f"cd {shlex.quote(str(start['folder']))}"
    if not run.checkpoints:
        yield "# it has no checkpoint: this starts anew"
        yield str(start.get("command") or f"d2v fit --config {folder}/{CONFIG}")
        return
    if run.state == "done":
        longer = f"--trainer.max_steps {2 * run.steps_done} --run_name {shlex.quote(run.folder.absolute().name)}-longer"
        yield "# a new run that begins where this one ended"
        yield f"d2v fit --resume {folder} {longer}"
    else:
        yield "# goes on from its last checkpoint"
        yield f"d2v fit --resume {folder}"
    if run.is_finetuning:
        yield "# error rates, and what it says about other samples"
        yield f"d2v test --config {folder}/{CONFIG} --ckpt_path {folder}"
        yield f"d2v predict --config {folder}/{CONFIG} --ckpt_path {folder} --data.root DIR"
        return
    yield "# what it has learned, and its features"
    for encoder in run.encoders or [""]:
        modality = f" --modality {encoder}" if encoder else ""
        yield f"d2v probe --checkpoint {folder}{modality} --data.root LABELLED"
        yield f"d2v embed --checkpoint {folder}{modality} --input DIR --output features.parquet"
