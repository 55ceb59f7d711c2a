"""data2vec for people who pretrain: one self-supervised method for pictures, speech and text."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v.checkpoints.load import load
    from d2v.commands.bench_data import bench_data
    from d2v.commands.bench_recipe import bench_recipe
    from d2v.commands.glue import fine_tune_on_glue
    from d2v.commands.pretrain import from_recipe, pretrain
    from d2v.demo import prepare_demo
    from d2v.features.align import align
    from d2v.features.embed import embed_files
    from d2v.features.search import search
    from d2v.modalities.speech.report import prepare_speech
    from d2v.modalities.text.corpus.preparation import prepare_corpus as prepare_text
    from d2v.monitoring.comparison import probe
    from d2v.monitoring.machine import check_machine
    from d2v.monitoring.report.page import report
    from d2v.official.exporting import export_checkpoint
    from d2v.official.importing import import_checkpoint

# oneDNN, with which torch computes on a CPU, keeps what it prepares for the last thousand shapes of convolutions and
# products, and each length of sound is a shape. A training step has about fifty. It is read at the first of them.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# Threads wait for one another by turning in circles (libgomp), which is fastest alone. Where other programs compute,
# they wait for a thread that is not running, and all come to a near standstill (docs/performance.md, "A step"). It is
# read when torch is imported.
_BUSY = hasattr(os, "getloadavg") and os.getloadavg()[0] >= 0.5 * (os.cpu_count() or 1)
if _BUSY and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "100")

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "align",
    "bench_data",
    "bench_recipe",
    "check_machine",
    "embed_files",
    "export_checkpoint",
    "fine_tune_on_glue",
    "from_recipe",
    "import_checkpoint",
    "load",
    "prepare_demo",
    "prepare_speech",
    "prepare_text",
    "pretrain",
    "probe",
    "report",
    "search",
]

_PLACES = {
    "align": "d2v.features.align.align",
    "bench_data": "d2v.commands.bench_data.bench_data",
    "bench_recipe": "d2v.commands.bench_recipe.bench_recipe",
    "check_machine": "d2v.monitoring.machine.check_machine",
    "embed_files": "d2v.features.embed.embed_files",
    "export_checkpoint": "d2v.official.exporting.export_checkpoint",
    "fine_tune_on_glue": "d2v.commands.glue.fine_tune_on_glue",
    "from_recipe": "d2v.commands.pretrain.from_recipe",
    "import_checkpoint": "d2v.official.importing.import_checkpoint",
    "load": "d2v.checkpoints.load.load",
    "prepare_demo": "d2v.demo.prepare_demo",
    "prepare_speech": "d2v.modalities.speech.report.prepare_speech",
    "prepare_text": "d2v.modalities.text.corpus.preparation.prepare_corpus",
    "pretrain": "d2v.commands.pretrain.pretrain",
    "probe": "d2v.monitoring.comparison.probe",
    "report": "d2v.monitoring.report.page.report",
    "search": "d2v.features.search.search",
}


def __getattr__(name: str) -> Any:
    """Import a function, and torch with it, when it is first asked for: `import d2v` and `d2v --help` stay quick."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, function = _PLACES[name].rpartition(".")
    return getattr(import_module(module), function)
