"""Others that load the samples of a data set, in one process: what training code without d2v would do."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import default_collate

from d2v.data.data_module import PretrainingDataModule
from d2v.data.samples import SampleDataset
from d2v.errors import UserError
from d2v.modalities.vision.transforms import TrainTransform

Load = Callable[[list[tuple[int, int]]], Any]
_TOKEN_BLOCKS = 2000  # that a table of tokens is made of


def peers_of(data: PretrainingDataModule, dataset: SampleDataset) -> Mapping[str, Load]:
    """Functions by name that make a batch of samples (data epoch, index).

    Raises:
        UserError: The samples are no files, which others read.
    """
    if data.unit == "tokens":
        return {"datasets": _tokens(dataset)}
    name = dataset.skipped.name
    if not os.path.isfile(name(0)):
        raise UserError("--peers: they read files, and data.root has none; name a folder of pictures or sound")
    if data.unit == "images":
        transform = getattr(data, "train_transform", None)
        ours = transform if isinstance(transform, TrainTransform) else None
        return _pictures(name, ours, next(iter(dataset[(0, 0)].inputs.shape[1:])))
    return _sound(name, dataset)


def _pictures(name: Callable[[int], str], ours: TrainTransform | None, size: int) -> Mapping[str, Load]:
    from datasets import Dataset, Image
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    least, jitter = 0.2, 0.0
    if ours is not None:
        least, jitter = ours.min_crop_scale, ours.color_jitter
    transform = transforms.Compose(
        [
            transforms.ColorJitter(jitter, jitter, jitter),
            transforms.RandomResizedCrop(size, (least, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def image_folder(keys: list[tuple[int, int]]) -> Any:
        return default_collate([transform(default_loader(name(index))) for _, index in keys])

    def rows(keys: list[tuple[int, int]]) -> Any:
        table = Dataset.from_dict({"image": [name(index) for _, index in keys]}).cast_column("image", Image())
        return default_collate([transform(table[number]["image"].convert("RGB")) for number in range(len(keys))])

    return {"torchvision": image_folder, "datasets": rows}


def _sound(name: Callable[[int], str], dataset: SampleDataset) -> Mapping[str, Load]:
    import soundfile

    longest = int(dataset.lengths.max())

    def whole_files(keys: list[tuple[int, int]]) -> Any:
        waves = []
        for _, index in keys:
            wave = torch.from_numpy(soundfile.read(name(index), dtype="float32")[0])
            if wave.dim() > 1:
                wave = wave.mean(1)
            start = int(torch.randint(max(len(wave) - longest, 0) + 1, ()))
            wave = wave[start : start + longest]
            waves.append(torch.nn.functional.layer_norm(wave, wave.shape))
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return padded, torch.arange(padded.shape[1]) >= torch.tensor(list(map(len, waves)))[:, None]

    return {"soundfile": whole_files}


def _tokens(dataset: SampleDataset) -> Load:
    from datasets import Dataset

    blocks = [dataset[(0, index)].inputs.tolist() for index in range(min(len(dataset), _TOKEN_BLOCKS))]
    table = Dataset.from_dict({"input_ids": blocks}).with_format("torch")

    def rows(keys: list[tuple[int, int]]) -> Any:
        ids = [table[index % len(table)]["input_ids"] for _, index in keys]
        return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)

    return rows
