"""Adam and AdamW are fused where that is possible and nobody chose otherwise."""

import pytest
import torch
from tiny_runs import PictureModule, largest_difference, make_module, make_trainer, weights


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (lambda groups: torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05), True),
        (lambda groups: torch.optim.Adam(groups, lr=1e-3), True),
        (lambda groups: torch.optim.AdamW(groups, lr=1e-3, foreach=True), None),
        (lambda groups: torch.optim.SGD(groups, lr=1e-3), None),
    ],
)
def test_a_fused_step_is_the_same_step(tmp_path, optimizer, fused):
    results = []
    for chosen in (optimizer, lambda groups: told(optimizer(groups))):
        module = make_module(optimizer=chosen)
        trainer = make_trainer(tmp_path, max_steps=4)
        trainer.fit(module, datamodule=PictureModule())
        results.append((trainer.optimizers[0].param_groups[0].get("fused"), weights(module)))
    assert results[0][0] is fused
    assert results[1][0] is not True
    assert largest_difference(results[0][1], results[1][1]) < 1e-6


def told(optimizer):
    for group in optimizer.param_groups:
        if group.get("fused", 0) is None and not group["foreach"]:
            group["fused"] = False
    return optimizer
