"""What recognition and classification share: encoder, freezing, masks, long clips, checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from d2v.checkpoints.head_files import StoredHead, head_recipe, load_head
from d2v.checkpoints.load import Weights
from d2v.data.filter_banks import SHIFT
from d2v.errors import UserError
from d2v.features.chunks import SAMPLE_RATE, encode_chunks
from d2v.finetuning.augmentation import TokenMasks
from d2v.finetuning.starting_encoder import described, obtain_encoder, require_same_modality
from d2v.metrics import MASKED_FRACTION, VAL_LOSS
from d2v.model.encoder import Encoder
from d2v.model.masked_input import ReplaceMasked
from d2v.model.randomness import combine_keys
from d2v.training.callbacks.log import is_logged
from d2v.training.callbacks.run_plan import total_steps
from d2v.training.frozen_parts import FrozenParts
from d2v.training.optimizer import Decaying
from d2v.training.schedules import LRSchedule, in_steps, require_share_or_steps
from d2v.training.step import TrainingModule
from d2v.types import Batch, EncoderOutput


class FineTuned(nn.Module):
    """An encoder with a head. Its names in a checkpoint are those of the pretraining method, so that ``d2v.load`` and
    ``model.checkpoint`` read a fine-tuned encoder as they read a pretrained one."""

    head: nn.Module | None

    def __init__(self, student: Encoder) -> None:
        super().__init__()
        self.student = student
        self.register_module("head", None)  # its size depends on the data


class FinetuningModule(TrainingModule):
    """Trains a head on an encoder, and the encoder with it.

    The head has one output a name (a letter, a class). The names come from the data when training starts, are kept in
    the checkpoint, and hold from then on: a head is never read with other names than it was trained with.

    Args:
        optimizer: Built from the parameter groups; its ``lr`` is the peak.
        schedule: Of the learning rate.
        checkpoint: Where the encoder comes from: a run's folder, a .ckpt or an imported folder.
        weights: The student's, or the teacher's average of them.
        modality: Which encoder of a checkpoint that holds several.
        encoder_changes: Arguments of the checkpoint's encoder that differ here, such as layer_drop.
        encoder: Instead of a checkpoint: a new encoder, trained from scratch.
        freeze: Parts of the encoder that are never trained, by name; [""]: all of it.
        freeze_encoder_steps: At the start only the head is trained: a share of the run below 1, or 1 and more optimizer
            steps.
        masks: Hidden spans of tokens and channels in training; null: none.
        chunk_seconds: Longest piece of sound to encode at once outside of training; null: everything as a whole.
        overlap_seconds: What neighbouring pieces share.
        seed: Of masks and of everything random in a step; the command line sets it from ``seed_everything``.
        weight_decay_on: What decays: "matrices" and kernels; "beit": all but vectors, CLS and positions; "all".
    """

    keeps_best = True
    val_metrics: MetricCollection
    """The one that the task is judged by first; made for the names of the outputs."""
    stored_as: ClassVar[str]
    """Key of the names in a checkpoint's ``d2v`` entry."""
    tables: ClassVar[dict[str, str]]
    """Name of the table that `d2v test` and `d2v predict` write."""

    def __init__(
        self,
        optimizer: Callable[[Iterable], Optimizer],
        schedule: LRSchedule,
        checkpoint: str | None = None,
        weights: Weights = "student",
        modality: str | None = None,
        encoder_changes: dict[str, Any] | None = None,
        encoder: Encoder | None = None,
        freeze: Sequence[str] = (),
        freeze_encoder_steps: float = 0,
        masks: TokenMasks | None = None,
        chunk_seconds: float | None = None,
        overlap_seconds: float = 5.0,
        seed: int = 0,
        weight_decay_on: Decaying = "matrices",
    ) -> None:
        super().__init__(optimizer, schedule, seed, weight_decay_on)
        require_share_or_steps("model.freeze_encoder_steps", freeze_encoder_steps)
        if chunk_seconds is not None and not 0 <= overlap_seconds < chunk_seconds:
            raise UserError(
                f"model.overlap_seconds is {overlap_seconds}: it must lie between 0 and model.chunk_seconds "
                f"({chunk_seconds})."
            )
        self.method = FineTuned(obtain_encoder(checkpoint, weights, modality, encoder_changes, encoder))
        self.checkpoint = checkpoint
        self.freeze_encoder_steps = freeze_encoder_steps
        self.masks = masks
        self.chunk_seconds = chunk_seconds
        self.overlap_seconds = overlap_seconds
        self.names: tuple[str, ...] = ()
        self._trained = False
        hidden = self.student.front.masked_input
        if isinstance(hidden, ReplaceMasked) and not (masks and masks.time_prob):
            hidden.requires_grad_(False)  # plain DDP would wait for its gradient
        self._frozen = FrozenParts(self.student, freeze)
        self.train()  # a loaded encoder is in eval mode

    # What a task gives.

    @abstractmethod
    def make_head(self, num_outputs: int) -> nn.Module:
        """A new head; random numbers come from torch's global generator."""

    @abstractmethod
    def names_in_data(self, datamodule: Any) -> tuple[str, ...]:
        """Names of the labels that the data have; empty if they have none."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Loss of a batch, a mean over its samples."""

    @abstractmethod
    def weights_from(self, head: StoredHead) -> tuple[Sequence[str], dict[str, Tensor]] | None:
        """Names and weights of a head that lies beside the encoder in ``checkpoint``; None if it is of no use here."""

    # Parts.

    @property
    def student(self) -> Encoder:
        """The encoder that is trained."""
        return self.method.student

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        return {"": self.student}

    @property
    def validation_metrics(self) -> Sequence[str]:
        return [*map(str, self.val_metrics.keys()), VAL_LOSS]

    @property
    def head(self) -> nn.Module:
        """There once the names of its outputs are known."""
        assert self.method.head is not None
        return self.method.head

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether only the head is trained in this step."""
        frozen_steps = in_steps(self.freeze_encoder_steps, total_steps(self.trainer))
        return self._frozen.whole or self.updates < frozen_steps

    def train(self, mode: bool = True) -> "FinetuningModule":
        super().train(mode)
        self._frozen.eval()
        return self

    # Features.

    def encode(self, batch: Batch) -> EncoderOutput:
        """Features; in training with masks, and without gradients while the encoder is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.training and self.encoder_is_frozen)):
            sequence = self.student.extract(batch.inputs, batch.padding_mask)
            if self.training and self.masks is not None:
                keys = combine_keys(self.seed, batch.epochs, batch.sample_ids)
                hidden = self.student.front.masked_input
                token = hidden.mask_token if isinstance(hidden, ReplaceMasked) else None
                sequence, masked = self.masks.apply(sequence, keys, token)
                if is_logged(self.trainer, self.trainer.global_step + 1):
                    valid = masked.numel() if sequence.padding_mask is None else (~sequence.padding_mask).sum()
                    self.log(MASKED_FRACTION, masked.sum() / valid)
            return self.student.encode(sequence)

    def has_long_clips(self, batch: Batch) -> bool:
        """Whether a clip of the batch is longer than a chunk."""
        return self.chunk_seconds is not None and batch.inputs.shape[1] > self.chunk_seconds * _rate(batch.inputs[0])

    def in_chunks(
        self, batch: Batch, function: Callable[[Tensor], Float[Tensor, "1 n d"]]
    ) -> Iterator[Iterator[Float[Tensor, "n d"]]]:
        """The clips of a batch, each as the frames of its chunks one after the other.

        Memory holds the waveforms and one chunk, however long the clips are.

        Args:
            batch: Waveforms or cepstra.
            function: Makes frames of a chunk.
        """
        for number, wave in enumerate(batch.inputs):
            if batch.padding_mask is not None:
                wave = wave[: int((~batch.padding_mask[number]).sum())]
            yield self._frames_of_chunks(wave, function)

    def _frames_of_chunks(self, wave: Tensor, function: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        assert self.chunk_seconds is not None
        for frames, _ in encode_chunks(
            self.student,
            lambda start, stop: wave[start:stop],
            len(wave),
            self.chunk_seconds,
            self.overlap_seconds,
            wave.device,
            function,
            _rate(wave),
        ):
            yield frames

    # Names of the outputs.

    def setup(self, stage: str) -> None:
        """Build the head for the labels of the data, unless a checkpoint has told its names.

        Raises:
            UserError: There are no labels to train on, or the checkpoint's are others.
        """
        command = TrainerFn(stage).value
        datamodule = getattr(self.trainer, "datamodule", None)
        require_same_modality(self.student, datamodule, self.checkpoint)
        found = self.names_in_data(datamodule)
        if not found and command != "predict":
            raise UserError(self.no_labels(command))
        if not self.names:
            self._first_head(found, fit=command == "fit")
        elif command == "fit" and self.names != found:
            raise UserError(self.other_names(found))

    def _first_head(self, found: tuple[str, ...], fit: bool) -> None:
        """The head that comes with the encoder, unless it is to be trained on other labels; else a new one."""
        stored = given = None
        if self.checkpoint is not None:
            stored = load_head(self.checkpoint)
        if stored is not None:
            given = self.weights_from(stored)
        if given is not None and (not fit or tuple(given[0]) == found):
            self.set_names(given[0])
            self.head.load_state_dict(given[1])
            self._trained = True
        elif found:
            if given is not None:
                rank_zero_info(f"model.checkpoint: its head writes {described(given[0])}; a new one starts")
            self.set_names(found)

    def set_names(self, names: Sequence[str]) -> None:
        """Build the head, with weights that depend on the seed alone."""
        self.names = tuple(names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.method.head = self.make_head(len(self.names)).to(self.device)

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        """Take the names of the outputs from a checkpoint whose weights are going to be loaded.

        Raises:
            UserError: It is of another task, or training would go on with other labels.
        """
        stored = checkpoint.get("d2v", {}).get(self.stored_as)
        if not stored:
            raise UserError(
                f"the checkpoint is no fine-tuned {type(self).__name__}: it has no {self.stored_as}. --ckpt_path and "
                "--resume continue such a run; a pretrained encoder goes into model.checkpoint"
            )
        if self.names == tuple(stored):
            return
        if self.names and self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            found, self.names = self.names, tuple(stored)
            raise UserError(self.other_names(found))
        self.set_names(stored)

    def no_labels(self, stage: str) -> str:
        return f"data: no labels, so there is nothing to {stage}; give a folder for each class, or a table of labels"

    def other_names(self, found: Sequence[str]) -> str:
        return (
            f"data: its {self.stored_as}, {described(found)}, differ from the checkpoint's, {described(self.names)}; "
            "give the data that it was trained on"
        )

    # Training.

    def on_fit_start(self) -> None:
        self._trained = True

    def on_validation_start(self) -> None:
        self._require_trained("validate")  # which it is while it is being trained

    def on_test_start(self) -> None:
        self._require_trained("test")

    def on_predict_start(self) -> None:
        self._require_trained("predict")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        self.seed_step()
        loss = self.loss(batch) * batch.sample_weight
        if self.encoder_is_frozen and self.trainer.world_size > 1:
            # Plain DDP waits for a gradient of every parameter that can have one.
            loss = loss + 0.0 * sum(p.sum() for p in self.student.parameters() if p.requires_grad)
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.encoder_is_frozen:
            for parameter in self.student.parameters():
                parameter.grad = None  # neither moved nor decayed, and no moments of it

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["d2v"][self.stored_as] = list(self.names)
        checkpoint["d2v"]["head"] = {"recipe": head_recipe(self.head)}  # with which `d2v export` builds it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the head that the checkpoint has; on a resume the config given wins for the optimizer's settings."""
        self.prepare_for(checkpoint)
        self._trained = True
        super().on_load_checkpoint(checkpoint)

    def _require_trained(self, command: str) -> None:
        if not self._trained:
            raise UserError(f"--ckpt_path: the head is untrained; give `d2v {command}` the run to take it from")


def _rate(clip: Tensor) -> int:
    """Values a second of a waveform [L], or of cepstra [L, C]."""
    return SAMPLE_RATE if clip.ndim == 1 else SAMPLE_RATE // SHIFT
