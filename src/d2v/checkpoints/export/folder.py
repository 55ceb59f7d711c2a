"""`d2v export --format safetensors`: a folder as `d2v import` writes it."""

from pathlib import Path

import d2v
from d2v.checkpoints import classifier_head, ctc_head
from d2v.checkpoints.export.card import model_card
from d2v.checkpoints.export.source import ExportSource
from d2v.checkpoints.folder import write_folder
from d2v.checkpoints.layout import StateDict

_USE = """```python
import d2v
encoder = d2v.load("{name}"){teacher}
features = encoder.embed(x)
```

`model.init_from: {name}` goes on pretraining from it, `model.checkpoint: {name}` fine-tunes it."""


def export(source: ExportSource, output: Path) -> list[str]:
    """Write the folder; one that comes from such a folder is the same again, file by file.

    Returns:
        What was written, in words.

    Raises:
        UserError: Something is at ``output`` already, or it cannot be written.
    """
    config = {**({} if "d2v_version" in source.config else {"d2v_version": d2v.__version__}), **source.config}
    heads: dict[str, StateDict] = {}
    if source.ctc is not None:
        config["ctc"] = {"symbols": list(source.ctc.symbols or ())}
        heads |= ctc_head.head_files(source.ctc)
    if source.classifier is not None:
        config["classifier"] = classifier_head.config_entry(source.classifier)
        heads |= classifier_head.head_files(source.classifier)
    parts = [part for part in ("student", "teacher", "head") if any(k.startswith(f"{part}.") for k in source.weights)]
    teacher = '  # or weights="teacher"' if "teacher" in parts else ""
    card = source.card or model_card(output.name, source, "d2v", _USE.format(name=output.name, teacher=teacher))
    write_folder(output, source.weights, config, card, heads, source.assets)
    if "head" in parts and len(source.config["method"]) == 1:
        parts.append("no recipe of the method, because the run's config.yaml is not beside its checkpoints")
    return [*parts, *heads, *source.assets]
