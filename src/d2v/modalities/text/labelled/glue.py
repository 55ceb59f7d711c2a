"""The tasks of GLUE (Wang et al. 2019): what their files hold, how they are scored and handed in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.errors import UserError
from d2v.modalities.text.labelled.examples import Columns, Examples, is_number, read_examples
from d2v.modalities.text.labelled.labelled_texts import SentenceDataModule
from d2v.modalities.text.labelled.tables import find_tables
from d2v.modalities.text.records import Delimited, Lines, Reading, Records

_FIRST = ("sentence1", "premise", "question1", "#1 String")
_SECOND = ("sentence2", "hypothesis", "question2", "#2 String")
_LABEL = ("gold_label", "label", "score", "is_duplicate", "Quality", "label1")
_ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Args:
        folder: GLUE's own name of its folder.
        columns: Where texts and labels stand, in GLUE's files and in Hugging Face's.
        submissions: Name, without ending, of the file to hand in for each test split.
        labels: GLUE's names of the classes, in the order of Hugging Face's numbers; empty if labels are scores.
        aliases: Hugging Face's names of the same classes, where they differ.
        metrics: Metrics on the development set, by torchmetrics' names; their mean is the task's score.
        dev_splits: Development sets; the score is the mean over them.
        without_header: Names of the columns, where GLUE's files have no line of names.
    """

    folder: str
    columns: Columns
    submissions: Mapping[str, str]
    labels: tuple[str, ...] = ("0", "1")
    aliases: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    dev_splits: tuple[str, ...] = ("dev",)
    without_header: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether labels are scores."""
        return not self.labels

    def label_of(self, text: str) -> str | None:
        """GLUE's name of a label, from that name or Hugging Face's name or number; None if it is no label."""
        if self.regression and is_number(text):
            return text
        for names in (self.labels, self.aliases):
            if text in names:
                return self.labels[names.index(text)]
        if is_number(text, int) and 0 <= int(text) < len(self.labels):
            return self.labels[int(text)]
        return None


_ONE, _TWO = Columns((("sentence",),), _LABEL), Columns((_FIRST, _SECOND), _LABEL)
TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", _ONE, {"test": "CoLA"}, aliases=("unacceptable", "acceptable"), metrics=("matthews",),
        without_header=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueTask("SST-2", _ONE, {"test": "SST-2"}, aliases=("negative", "positive")),
    "mrpc": GlueTask(
        "MRPC", _TWO, {"test": "MRPC"}, aliases=("not_equivalent", "equivalent"), metrics=("accuracy", "f1")
    ),
    "stsb": GlueTask("STS-B", _TWO, {"test": "STS-B"}, labels=(), metrics=("pearson", "spearman")),
    "qqp": GlueTask("QQP", _TWO, {"test": "QQP"}, aliases=("not_duplicate", "duplicate"), metrics=("accuracy", "f1")),
    "mnli": GlueTask(
        "MNLI", _TWO, {"test_matched": "MNLI-m", "test_mismatched": "MNLI-mm", "diagnostic": "AX"},
        labels=("entailment", "neutral", "contradiction"), dev_splits=("dev_matched", "dev_mismatched"),
    ),
    "qnli": GlueTask("QNLI", Columns((("question",), ("sentence",)), _LABEL), {"test": "QNLI"}, labels=_ENTAILMENT),
    "rte": GlueTask("RTE", _TWO, {"test": "RTE"}, labels=_ENTAILMENT),
    "wnli": GlueTask("WNLI", _TWO, {"test": "WNLI"}, aliases=("not_entailment", "entailment")),
}  # fmt: skip
"""The tasks by Hugging Face's names."""

NOT_AVERAGED = ("wnli",)
"""Its development set contradicts its training set, and published averages leave it out."""


def find_task_folder(root: Path, name: str) -> Path | None:
    """Folder of a task, by GLUE's name or Hugging Face's in upper or lower case; this may be ``root`` itself."""
    wanted = {TASKS[name].folder.lower(), name}
    if root.is_dir():
        for path in (*sorted(root.iterdir()), root):
            if path.is_dir() and path.name.lower() in wanted:
                return path
    return None


def find_glue_split(folder: Path, name: str, split: str) -> list[Records]:
    """Tables of a split of a task; empty if the split is not there.

    Args:
        folder: Folder of the task; the diagnostic set may also lie in a folder beside it.
        name: Name of the task.
        split: GLUE's name of the split.
    """
    names = (split, split.replace("dev", "validation"), split.replace("dev", "val"))
    tables = find_tables(folder, names)
    if split == "diagnostic" and not tables and (beside := folder.parent / "diagnostic").is_dir():
        tables = find_tables(beside, names)
    header = TASKS[name].without_header
    found: list[Records] = []
    for table in tables:
        has_header = not header or len(table.columns) != len(header) or header[-1] in table.columns
        if isinstance(table, Delimited) and not has_header:
            found.append(Delimited(table.path, Reading(), header, quoted=False))
        elif not isinstance(table, Lines):
            found.append(table)
    if not found and name == "mrpc":  # Microsoft's own files: their test set is GLUE's development set
        file = folder / {"train": "msr_paraphrase_train.txt", "dev": "msr_paraphrase_test.txt"}.get(split, "")
        if file.is_file():
            found.append(Delimited(file, Reading(), None, quoted=False))
    return found


class GlueDataModule(SentenceDataModule):
    """A task of GLUE, from its own files or from Hugging Face's (saved to disk, or Parquet).

    Args:
        root: folder with the folders of the tasks (CoLA, SST-2, ...), or the folder of this task.
        task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli.
        batch_size: sentences (or pairs) of one device and one micro-batch.
        max_length: tokens of a sentence, or of a pair together; longer ones are cut.
        tokenizer: tokenizer.json or a folder with a tokenizer; null: the one that the encoder was trained with.
        val_split: dev; of mnli, dev_matched or dev_mismatched; null: the first of them.
        max_samples: train on a fixed subset of this many sentences, equally many of each class as far as possible.
        predict_on: what `d2v predict` reads: "val", that split, or test (test_matched, test_mismatched, diagnostic).
        common: What every DataModule has; see :class:`PretrainingDataModule`.
    """

    has_fixed_splits = True  # GLUE's, in every root

    def __init__(
        self,
        root: str,
        task: str,
        batch_size: int = 16,
        max_length: int = 512,
        tokenizer: str | None = None,
        val_split: str | None = None,
        max_samples: int | None = None,
        predict_on: str = "val",
        **common: Any,
    ) -> None:
        super().__init__(root, batch_size, max_length, tokenizer, 0.0, max_samples, predict_on, **common)
        if task not in TASKS:
            raise UserError(f"data.task is {task}: it must be one of {', '.join(TASKS)}.")
        self.task = task
        self.spec = TASKS[task]
        self.regression = self.spec.regression
        if val_split is None:
            val_split = self.spec.dev_splits[0]
        self.val_split = val_split
        for key, value, known in (
            ("val_split", self.val_split, self.spec.dev_splits),
            ("predict_on", predict_on, ("val", *self.spec.submissions)),
        ):
            if value not in known:
                raise UserError(f"data.{key} is {value}: of {task} it must be {' or '.join(known)}.")

    def read_train(self) -> Examples:
        return self._read("train")

    def read_val(self) -> Examples | None:
        return self._read(self.val_split)

    def read_for_prediction(self) -> Examples:
        return self._read(self.predict_on, labelled=False)

    def _read(self, split: str, labelled: bool = True) -> Examples:
        folder = find_task_folder(Path(self.root).expanduser(), self.task)
        if folder is None:
            raise UserError(
                f"data.root {self.root}: has no folder {self.spec.folder} for data.task {self.task}; give the folder "
                "that GLUE's tasks lie in"
            )
        tables = find_glue_split(folder, self.task, split)
        if not tables:
            raise UserError(f"data.root {folder}: has no {split}.tsv, nor {split} in another form; put it there")
        read = read_examples(tables, self.spec.columns, labelled, self._check, self.max_skipped_fraction)
        if read.labels is None:
            return read
        labels = tuple(self.spec.label_of(label) or "" for label in read.labels)
        return Examples(read.texts, labels, read.places, self.spec.labels, read.left_out)

    def _check(self, label: str) -> str | None:
        if self.spec.label_of(label) is not None:
            return None
        known = " ".join(self.spec.labels) or "scores"
        return f"has the label {label!r}; those of {self.task} are {known}"


def submission(rows: Sequence[str], spec: GlueTask) -> str:
    """Content of a file to hand in: one line for each row of the test set, in its order, numbered from 0."""
    lines = ["index\tprediction\n"]
    for index, row in enumerate(rows):
        if spec.regression:  # the site takes scores from 0 to 5
            lines.append(f"{index}\t{min(max(float(row), 0.0), 5.0):.3f}\n")
        else:
            lines.append(f"{index}\t{row}\n")
    return "".join(lines)
