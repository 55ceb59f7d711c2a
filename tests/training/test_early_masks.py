"""Masks that loading processes draw are those that the model would draw."""

import pickle

import pytest
import torch
from tiny_runs import PictureModule, make_module, make_trainer


@pytest.mark.parametrize(("kind", "early"), [("1.0", True), ("2.0", False)])
@pytest.mark.parametrize("num_masks", [1, 3])
def test_early_masks_are_the_models_own(tmp_path, kind, early, num_masks):
    changes = {"num_masks": num_masks}
    module = make_module(kind, **changes)
    data = PictureModule(num_samples=20)
    data.trainer = make_trainer(tmp_path)
    data.trainer.strategy.connect(module)
    data.setup("fit")
    module = module.eval()
    for loader in (*data.probe_dataloaders(), data.predict_dataloader()):
        assert loader.collate_fn is data.collate  # nobody would look at masks
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert loader.collate_fn is not data.collate or not early
        make = pickle.loads(pickle.dumps(loader.collate_fn))  # as a process that is spawned gets it
        batch = make([loader.dataset[(epoch, epoch + 2)] for epoch in range(4)])
        assert (batch.masked is not None) == early
        given = module.method({"": batch}, module.seed)[""]
        drawn = module.method({"": batch._replace(masked=None)}, module.seed)[""]
        assert torch.equal(given.mask.masked, drawn.mask.masked)
        assert given.mask.masked.shape == (4 * num_masks, 16)
        assert torch.equal(given.loss, drawn.loss)
        another = module.method({"": batch._replace(masked=None)}, module.seed + 1)[""]
        assert not torch.equal(given.mask.masked, another.mask.masked)
