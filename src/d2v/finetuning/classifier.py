"""Classification of whole inputs: one class each, several labels, or a score."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MetricCollection

from d2v.checkpoints.head_files import StoredHead, head_recipe
from d2v.errors import UserError
from d2v.finetuning.augmentation import Mixing, hide_bands
from d2v.finetuning.classifier_tasks import Task, check_metrics, describe, describe_label, make_metrics
from d2v.finetuning.finetuning_module import FinetuningModule
from d2v.model.encoder import mean_of_tokens
from d2v.nn.initial_weights import init_weights
from d2v.nn.task_heads import ClassifierHead, HeadKind, TanhHead
from d2v.training.optimizer import layer_decayed_groups
from d2v.types import Batch, EncoderOutput, Rows

Pooling = Literal["mean", "cls"]


class Classifier(FinetuningModule):
    """Trains an encoder to name the class of an input, or to give it a score, whatever its modality.

    Args:
        task: "single": one class each (cross-entropy; top-1 and top-5). "multi": any number of labels (binary
            cross-entropy; mean average precision). "regression": a score (squared error; Pearson and Spearman).
        metrics: Others than those of the task, by name: top1, top5, accuracy, f1 (of the second of two classes, else
            the mean over classes), matthews; map; pearson, spearman.
        pool: Mean over the tokens that are no padding, or the CLS token (of several their mean; of text: its ``<s>``).
        head: One linear layer, or RoBERTa's two with a tanh between them.
        norm: Whether pooled features are normalised before the head.
        dropout: Of what a linear layer of the head reads.
        head_std: Deviation of the head's first weights, whose biases are zero; null: torch's own start, with biases.
        label_smoothing: Share of the target that goes to all classes alike, in training.
        mixing: Mixup and CutMix, of pictures and spectrograms; null: none.
        spec_augment: Largest share of the frames, and of the mel bins, that are hidden of a training spectrogram.
        layer_decay: Factor of the learning rate from each block to the one below it, counted from the head, whose rate
            is the optimizer's; 1: all have that one.
        layer_decay_input: Whether what lies before the blocks has the lowest rate, or the head's.
        score_scale: Of a regression: the head learns scores divided by it (and so is the loss), and predictions are
            multiplied by it; with 5, scores from 0 to 5 are learned as 0 to 1.
        start: Arguments of :class:`FinetuningModule`.
    """

    stored_as: ClassVar[str] = "classes"
    tables: ClassVar[dict[str, str]] = {"test": "predictions.tsv", "predict": "predictions.tsv"}

    def __init__(
        self,
        task: Task = "single",
        metrics: Sequence[str] | None = None,
        pool: Pooling = "mean",
        head: HeadKind = "linear",
        norm: bool = True,
        dropout: float = 0.0,
        head_std: float | None = 0.02,
        label_smoothing: float = 0.0,
        mixing: Mixing | None = None,
        spec_augment: float = 0.0,
        layer_decay: float = 1.0,
        layer_decay_input: bool = True,
        score_scale: float = 1.0,
        **start: Any,
    ) -> None:
        super().__init__(**start)
        if pool == "cls" and not self.student.has_cls:
            raise UserError("model.pool is cls: this encoder has no CLS token; set it to mean.")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}: it must be at least 0 and less than 1.")
        if label_smoothing and task != "single":
            raise UserError("model.label_smoothing is for model.task single; set it to 0.")
        if mixing is not None and task == "regression":
            raise UserError("model.mixing is for model.task single or multi; set it to null.")
        if not 0 <= spec_augment < 1:
            raise UserError(f"model.spec_augment is {spec_augment}: it must be at least 0 and less than 1.")
        if not 0 < layer_decay <= 1:
            raise UserError(f"model.layer_decay is {layer_decay}: it must lie above 0 and at most at 1.")
        if not (score_scale > 0 and math.isfinite(score_scale)):
            raise UserError(f"model.score_scale is {score_scale}: it must be greater than 0.")
        if score_scale != 1 and task != "regression":
            raise UserError("model.score_scale is for model.task regression; set it to 1.")
        if self.chunk_seconds is not None and pool == "cls":
            raise UserError("model.chunk_seconds: chunks have a mean but no common CLS token; set model.pool to mean.")
        check_metrics(task, metrics or ())
        self.task = task
        self.metrics = metrics or ()
        self.pool = pool
        self.head_kind = head
        self.norm = norm
        self.dropout = dropout
        self.head_std = head_std
        self.label_smoothing = label_smoothing
        self.mixing = mixing
        self.spec_augment = spec_augment
        self.layer_decay = layer_decay
        self.layer_decay_input = layer_decay_input
        self.score_scale = score_scale
        self._data_classes: tuple[str, ...] = ()
        self._norm_eps: float | None = None
        """Of a head that comes from elsewhere; a new one has its encoder's."""

    def make_head(self, num_outputs: int) -> nn.Module:
        kind = {"linear": ClassifierHead, "tanh": TanhHead}[self.head_kind]
        eps = self._norm_eps or self.student.trunk.eps
        head = kind(self.student.width, num_outputs, self.norm, self.dropout, eps)
        if self.head_std is not None:
            init_weights(head, "bert", self.head_std)
        return head

    def names_in_data(self, datamodule: Any) -> tuple[str, ...]:
        """Names of the classes; of a score, its own alone.

        Raises:
            UserError: Scores for classes, or classes for scores.
        """
        has_scores = bool(getattr(datamodule, "regression", False))
        classes = tuple(getattr(datamodule, "class_names", ()))
        if has_scores and self.task != "regression":
            raise UserError(f"model.task is {self.task}, but the data have scores; set it to regression")
        if classes and not has_scores and self.task == "regression":
            raise UserError(
                "model.task is regression, but the data have classes; set it to single or multi, or, where the labels "
                "of texts are scores: --data.regression true"
            )
        self._data_classes = ("score",) if has_scores else classes
        return self._data_classes

    def set_names(self, names: Sequence[str]) -> None:
        if self.task == "single" and len(names) < 2:
            raise UserError(f"data: all samples are of one class, {names[0]!r}; a classifier needs two")
        super().set_names(names)
        self.val_metrics = make_metrics(self.task, self.metrics, len(names), "val/")
        self.test_metrics = make_metrics(self.task, self.metrics, len(names), "test/")

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.layer_decay == 1:
            return super().parameter_groups()
        decaying, input_too = self.weight_decay_on, self.layer_decay_input
        return layer_decayed_groups(self, self.student, self.layer_decay, decaying, input_too)

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        recipe = checkpoint.get("d2v", {}).get("head", {}).get("recipe", {})
        self._norm_eps = recipe.get("init_args", {}).get("eps")
        super().prepare_for(checkpoint)

    def weights_from(self, head: StoredHead) -> tuple[Sequence[str], dict[str, Tensor]] | None:
        """Those of a classifier that is built like this one; else a notice says where they differ.

        Classes that it does not name are those of the data, in their order. Its scores are in the units of the data,
        those of a head of ours ``score_scale`` times smaller.
        """
        if head.task == "ctc":
            return None
        classes, outputs = self._data_classes, head.num_outputs
        differing = []
        for key, theirs, ours in (
            ("task", head.task, self.task),
            ("pool", head.pool, self.pool),
            ("head", head.kind, self.head_kind),
            ("norm", head.has_norm, self.norm),
        ):
            if theirs != ours:
                differing.append(f"model.{key} {str(theirs).lower()}")
        if head.names is None and classes and len(classes) != outputs:
            differing.append(f"{outputs} classes (the data have {len(classes)})")
        if differing:
            rank_zero_info(f"model.checkpoint: its classifier is not taken, because it has {', '.join(differing)}")
            return None
        self._norm_eps = head_recipe(head.module)["init_args"]["eps"]
        names = head.names or classes or tuple(map(str, range(outputs)))
        order = list(range(outputs))
        if head.names is not None and set(head.names) == set(classes):
            names, order = classes, [head.names.index(name) for name in classes]
        weights = dict(head.weights)
        for name in ("proj.weight", "proj.bias"):
            weights[name] = weights[name][order] / self.score_scale
        return names, weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["d2v"]["head"] |= {"pool": self.pool, "task": self.task, "score_scale": self.score_scale}

    # Steps.

    def loss(self, batch: Batch) -> Tensor:
        labels = self._labels(batch)
        if self.mixing is not None and self.training:
            pixels, labels = self.mixing.apply(batch.inputs, labels, len(self.names))
            batch = batch._replace(inputs=pixels)
        if self.spec_augment and self.training:
            batch = batch._replace(inputs=hide_bands(batch.inputs, self.spec_augment))
        return self._loss(self.head(self._pooled(self.encode(batch))), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Rows]:
        """Scores a batch; its rows have the true class and the predicted one."""
        scores = self._score(batch, "test", self.test_metrics)
        columns, values = describe(scores, self.task, self.names, self.score_scale)
        rows = []
        for label, value in zip(self._labels(batch).tolist(), values, strict=True):
            rows.append((describe_label(label, self.task, self.names), *value))
        return {"rows": Rows(batch.sample_ids, ("label", *columns), rows)}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Rows]:
        scores = self.head(self._features(batch))
        return {"rows": Rows(batch.sample_ids, *describe(scores, self.task, self.names, self.score_scale))}

    # Parts.

    def _pooled(self, output: EncoderOutput) -> Float[Tensor, "b d"]:
        if self.pool == "cls":
            return output.mean_cls
        return mean_of_tokens(output.tokens, output.padding_mask)

    def _features(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Pooled features outside of training, of long clips chunk by chunk."""
        if not self.has_long_clips(batch):
            return self._pooled(self.encode(batch))
        clips = self.in_chunks(batch, lambda x: self.student(x).tokens)
        return torch.stack([_mean(pieces) for pieces in clips])

    def _loss(self, scores: Float[Tensor, "b c"], labels: Tensor) -> Tensor:
        if self.task == "multi":
            return F.binary_cross_entropy_with_logits(scores, labels)
        if self.task == "regression":
            return F.mse_loss(scores[:, 0], labels / self.score_scale)
        smoothing = 0.0
        if self.training:
            smoothing = self.label_smoothing
        return F.cross_entropy(scores, labels, label_smoothing=smoothing)

    def _score(self, batch: Batch, split: str, metrics: MetricCollection) -> Float[Tensor, "b c"]:
        labels = self._labels(batch)
        scores = self.head(self._features(batch))
        loss = self._loss(scores, labels)
        self.log(f"{split}/loss", loss, batch_size=len(labels), sync_dist=True, prog_bar=split == "val")
        if self.task == "regression":
            metrics.update(scores[:, 0] * self.score_scale, labels)
        elif self.task == "multi":  # the metric would tell scores from probabilities by the values of each batch alone
            metrics.update(scores.sigmoid(), labels.long())
        else:
            metrics.update(scores, labels.long())
        self.log_dict(metrics, batch_size=len(labels))
        return scores

    def _labels(self, batch: Batch) -> Int64[Tensor, "b"] | Float[Tensor, "b"] | Float[Tensor, "b c"]:
        """Labels in the classes of the head, which the data may number otherwise; scores as they are."""
        labels = batch.labels
        if labels is None:
            raise UserError("data: a batch without labels; all samples need one")
        if (labels.ndim == 2) != (self.task == "multi"):
            have = "several labels a sample" if labels.ndim == 2 else "one class a sample"
            raise UserError(f"model.task is {self.task}, but the data have {have}; set it to the other")
        if self._data_classes == self.names:  # always of scores
            return labels
        unknown = [name for name in self._data_classes if name not in self.names]
        if unknown:
            raise UserError(
                f"data: the checkpoint's head has no class {unknown[0]!r} ({len(unknown)} such classes); those of an "
                "imported one can be named by `d2v import --classes FILE`"
            )
        place = torch.tensor([self.names.index(name) for name in self._data_classes], device=labels.device)
        if self.task == "single":
            return place[labels]
        return labels.new_zeros(len(labels), len(self.names)).index_copy(1, place, labels)


def _mean(pieces: Iterable[Float[Tensor, "n d"]]) -> Float[Tensor, "d"]:
    total, count = torch.zeros(()), 0
    for frames in pieces:
        total = total.to(frames) + frames.sum(dim=0)
        count += len(frames)
    return total / count
