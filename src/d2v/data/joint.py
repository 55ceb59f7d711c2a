"""Batches of several DataModules in each step: every one keeps its own stream, position, epochs and unit."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from d2v.data.batching import TrainingSize, derive_accumulation
from d2v.data.data_module import PretrainingDataModule
from d2v.data.loading_processes import StreamLoader
from d2v.errors import UserError
from d2v.types import Batch

_Found = TypeVar("_Found")


class JointDataModule(LightningDataModule):
    """Hands over a batch of every part at once, by its name.

    A stream of samples has no end, so each part begins its next pass whenever it has read its samples, and its order is
    that of a run of its own. An epoch of the trainer is one pass over the part that has most steps.

    Args:
        parts: DataModules by the names of the encoders that read their batches.
        seed: Of the order of samples and of all their randomness, in every part.
    """

    def __init__(self, parts: dict[str, PretrainingDataModule], seed: int = 0) -> None:
        super().__init__()
        if not parts:
            raise UserError("data.parts: there is none; give a DataModule for each medium of the model")
        self.parts: Mapping[str, PretrainingDataModule] = parts
        for name, part in parts.items():
            part.seed, part.encoder_name, part.parts_together = seed, name, len(parts)

    def prepare_data(self) -> None:
        self._of_each(lambda part: part.prepare_data())

    def setup(self, stage: str | None = None) -> None:
        """Set up each part.

        Raises:
            UserError: The model has no encoder for one or no data for another, they need to accumulate differently, or
                there is nothing to validate.
        """
        trainer = self.trainer
        if trainer is not None:
            encoders = getattr(trainer.lightning_module, "encoders", self.parts)
            if encoders.keys() != self.parts.keys():
                has, wants = ", ".join(self.parts), ", ".join(encoders)
                raise UserError(f"data.parts are {has}, and the encoders of the model {wants}: each needs the other")
            for part in self.parts.values():
                part.trainer = trainer
            if stage in (None, "fit"):
                trainer.accumulate_grad_batches = self._accumulation(trainer.accumulate_grad_batches)
        self._of_each(lambda part: part.setup(stage))
        if stage in ("validate", "test") and not any(self._of_each(lambda part: part.eval_dataset("val")).values()):
            text = "hold out a share of the training samples of one, data.parts.NAME.val_fraction 0.05"
            raise UserError(f"data.parts: none has a validation split, and this command needs one; {text}")

    def _accumulation(self, set_by_user: int) -> int:
        def derive(part: PretrainingDataModule) -> int:
            return derive_accumulation(part.batch_size, part.global_batch_size, part.world_size, set_by_user)

        counts = self._of_each(derive)
        stated = {name: counts[name] for name, part in self.parts.items() if part.global_batch_size is not None}
        if len(set(stated.values())) > 1:
            needed = ", ".join(f"{count} for {name}" for name, count in stated.items())
            raise UserError(
                f"data.parts: their global_batch_size needs different numbers of micro-batches a step ({needed}), and "
                "each micro-batch has one of every part: change data.parts.NAME.batch_size or global_batch_size"
            )
        return next(iter(stated.values()), set_by_user)

    def train_dataloader(self) -> "JointLoader":
        return JointLoader(self._of_each(lambda part: part.train_dataloader()))

    def val_dataloader(self) -> "OneAfterAnother | list[Any]":
        return _one_after_another(self._of_each(lambda part: part.val_dataloader()))

    def test_dataloader(self) -> "OneAfterAnother | list[Any]":
        return _one_after_another(self._of_each(lambda part: part.test_dataloader()))

    def predict_dataloader(self) -> "OneAfterAnother | list[Any]":
        return _one_after_another(self._of_each(lambda part: part.predict_dataloader()))

    def training_size(self) -> TrainingSize:
        """That of the part with most steps in an epoch."""
        sizes = self._of_each(lambda part: part.training_size())
        return max(sizes.values(), key=lambda size: size.steps_per_epoch)

    def on_before_batch_transfer(self, batch: Mapping[str, Batch], dataloader_idx: int) -> dict[str, Batch]:
        """See :meth:`PretrainingDataModule.on_before_batch_transfer`."""
        found = {}
        for name, part in batch.items():
            with naming(name):
                found[name] = self.parts[name].on_before_batch_transfer(part, dataloader_idx)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Position of each part."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A part that was not there before begins at its beginning."""
        for name, part in self.parts.items():
            if state_dict.get(name):
                part.load_state_dict(state_dict[name])

    def _of_each(self, do: Callable[[PretrainingDataModule], _Found]) -> dict[str, _Found]:
        """What each part says, by its name."""
        found = {}
        for name, part in self.parts.items():
            with naming(name):
                found[name] = do(part)
        return found


def parts_of(data: object) -> Mapping[str, PretrainingDataModule]:
    """The DataModules of d2v that fill batches, by the names of encoders; none in data from elsewhere."""
    if isinstance(data, PretrainingDataModule | JointDataModule):
        return data.parts
    return {}


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Inside, a part is at work, which calls its keys ``data.KEY``."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"\bdata\.(?=[a-z_]+)", f"data.parts.{name}.", str(error))) from error


class JointLoader:
    """A batch of each stream at a time, by name; as many times as the longest of them has batches in an epoch."""

    def __init__(self, loaders: Mapping[str, StreamLoader]) -> None:
        self.loaders = loaders

    @property
    def sampler(self) -> "JointLoader":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        for loader in self.loaders.values():
            loader.set_epoch(epoch)

    def __len__(self) -> int:
        return max(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        # Not itself a generator: where to start is decided now, and not when the first batch is drawn.
        streams = {name: loader.next_batches(len(self)) for name, loader in self.loaders.items()}
        return self._together(streams)

    def _together(self, streams: Mapping[str, Iterator[Batch]]) -> Iterator[dict[str, Batch]]:
        for _ in range(len(self)):
            yield {name: next(stream) for name, stream in streams.items()}

    # Lightning looks for these two methods, and would warn.

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass


def _one_after_another(loaders: Mapping[str, DataLoader[Any] | list[Any]]) -> "OneAfterAnother | list[Any]":
    """Those there are; a part without a validation split has none."""
    found = {name: loader for name, loader in loaders.items() if isinstance(loader, DataLoader)}
    return OneAfterAnother(found) if found else []


class OneAfterAnother:
    """All batches of the first loader, then those of the next, each by the name of its own."""

    def __init__(self, loaders: Mapping[str, DataLoader[Any]]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        for name, loader in self.loaders.items():
            for batch in loader:
                yield {name: batch}
