"""A masked language model with encoder, data and optimizer of a text recipe: what data2vec is measured beside.

BERT's: 15% of the tokens are predicted, of which 80% become <mask>, 10% another token, 10% stay; cross-entropy over the
vocabulary, the output table is the embedding table. What it writes is a checkpoint that probing and fine-tuning read.

    python benchmarks/masked_language_model.py --config learn/text_imdb.yaml --root raw.txt --minutes 25 --output m.ckpt
"""

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from d2v import __version__
from d2v.checkpoints.recipe import build_encoder
from d2v.configs import find_config
from d2v.modalities.text.data import TextDataModule
from d2v.model.encoder import Encoder
from d2v.model.masked_input import gather_tokens
from d2v.model.masking import RandomMasking
from d2v.training.optimizer import parameter_groups
from d2v.training.schedules import in_steps
from d2v.types import Batch


class MaskedLanguageModel(nn.Module):
    """Encoder, transform and tied output (BERT; RoBERTa's head)."""

    def __init__(self, student: Encoder, seed: int) -> None:
        super().__init__()
        self.student = student
        self.masking = RandomMasking(0.15)
        self.transform = nn.Sequential(
            nn.Linear(student.width, student.width), nn.GELU(), nn.LayerNorm(student.width, eps=1e-5)
        )
        self.bias = nn.Parameter(torch.zeros(len(student.feature_extractor.embedding.weight)))
        self.seed = seed

    def forward(self, batch: Batch) -> Tensor:
        sequence = self.student.extract(batch.inputs, batch.padding_mask)
        mask = self.masking(batch, sequence.grid, 1, self.seed, sequence.padding_mask)
        tokens = gather_tokens(self.student.encode(sequence, mask).tokens, mask.masked_index)
        scores = F.linear(self.transform(tokens), self.student.feature_extractor.embedding.weight, self.bias)
        wanted = batch.inputs.gather(1, mask.masked_index)
        if mask.scored is not None:
            wanted = wanted.masked_fill(~mask.scored, -100)
        return F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=-100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--lr", type=float, help="peak; the recipe's, if it is not given")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    config: dict[str, Any] = yaml.safe_load(find_config(args.config).read_text())
    model, trainer = config["model"]["init_args"], config["trainer"]
    torch.manual_seed(0)
    node = copy.deepcopy(model["student"])
    node["front"]["init_args"].update(masked_input="replace", random_tokens=0.1, unchanged_tokens=0.1)
    student = build_encoder(node)
    data = TextDataModule(**{**config["data"]["init_args"], "root": args.root})
    data.prepare_data()
    data.adapt_to(student)
    method = MaskedLanguageModel(student, seed=0).train()
    settings = model["optimizer"]["init_args"]
    peak = args.lr or settings["lr"]
    optimizer = torch.optim.AdamW(parameter_groups(method), **{**settings, "lr": peak})
    warmup = in_steps(model["schedule"]["init_args"]["warmup"], trainer["max_steps"])

    start, step, share = time.perf_counter(), 0, 0.0
    seconds = 60 * args.minutes
    loader, epoch = data.train_dataloader(), 0
    while share < 1:  # the cosine follows the clock: it ends with the budget
        loader.batch_sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            share = (time.perf_counter() - start) / seconds
            for group in optimizer.param_groups:
                group["lr"] = peak * min(step / warmup, 1) * (1 + math.cos(math.pi * min(share, 1))) / 2
            loss = method(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(method.parameters(), trainer["gradient_clip_val"])
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 100 == 0:
                print(f"step {step:,}  {share:.0%} of the time  loss {loss.item():.3f}", flush=True)
            if share >= 1:
                break
    torch.save(
        {
            "state_dict": {f"method.student.{name}": value for name, value in student.state_dict().items()},
            "d2v": {"version": __version__, "student": student.recipe, "assets": student.assets},
        },
        args.output,
    )
    print(f"{step:,} steps in {(time.perf_counter() - start) / 60:.1f} min: {args.output}")


if __name__ == "__main__":
    main()
