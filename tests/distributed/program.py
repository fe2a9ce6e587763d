"""What one rank runs: ``python program.py CASE FOLDER``; the rank and its peers stand in the environment."""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

SAMPLES, INPUTS, CLASSES = 24, 12, 3


def network(seed=0, dropout=False):
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    if dropout:
        layers.insert(2, nn.Dropout(0.3))
        layers.insert(1, nn.BatchNorm1d(16))
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.4 * torch.randn(param.shape, generator=generator))
    return model


def batch(step, seed=0):
    generator = torch.Generator().manual_seed(1000 * seed + step)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    return x, torch.randint(CLASSES, (SAMPLES,), generator=generator)


def sgd(ranks, steps=6, box=False, dropout=False, **settings):
    """Weights, buffers and losses of a run of ZOSGD."""
    torch.manual_seed(0)
    model = network(dropout=dropout)
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=16, momentum=0.9, ranks=ranks, **settings)
    losses = []
    for step in range(steps):
        x, y = batch(step)

        def loss(take=lambda t: t, x=x, y=y):
            return F.cross_entropy(model(take(x)), take(y))

        losses.append(opt.step(zo.BlackBox(loss) if box else loss))
    return [*model.state_dict().values()], losses


def adam(ranks, steps=6, fused=True, **settings):
    """The same of a FusedTrainer."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = zo.FusedTrainer(model, optimizer, directions=16, fused=fused, ranks=ranks, **settings)
    assert trainer.is_fused == fused
    losses = [trainer.step(*batch(step)) for step in range(steps)]
    return [*model.state_dict().values()], losses


RUNS = {
    "sgd": lambda ranks: sgd(ranks),
    "central align": lambda ranks: sgd(ranks, sides=2, aggregator="align", eps=1e-3),
    "sphere": lambda ranks: sgd(ranks, distribution="sphere"),
    "chunks": lambda ranks: sgd(ranks, chunk=3),
    "black box": lambda ranks: sgd(ranks, box=True, eps=1e-2),
    "dropout, batch norm": lambda ranks: sgd(ranks, dropout=True),
    "adam": lambda ranks: adam(ranks),
    "adam, general": lambda ranks: adam(ranks, fused=False, sides=2),
}
BATCH_RUNS = {
    "parts": lambda ranks: sgd(ranks),
    "parts, black box": lambda ranks: sgd(ranks, box=True, eps=1e-2),
    "parts, adam": lambda ranks: adam(ranks),
    "parts, central": lambda ranks: adam(ranks, sides=2),
}


def every_run():
    """All results by name, for a comparison between numbers of ranks."""
    ranks = zo.Ranks(shards=4)
    found = {name: run(ranks) for name, run in RUNS.items()}
    ranks = zo.Ranks(shards=2, batch_shards=2)
    return found | {name: run(ranks) for name, run in BATCH_RUNS.items()}


def differ(folder, what):
    """Rank 1 is in another state than the others; the error is what every rank tells."""
    odd = dist.get_rank() == 1
    if what == "arguments":
        zo.Ranks(shards=4, check_every=7 if odd else 5)
    if what == "version" and odd:
        zo.__version__ = "0.0.1"
    ranks = zo.Ranks(shards=4, check_every=3)
    model = network(seed=int(odd) if what == "weights" else 0)
    settings = {"eps": 1e-3 if odd and what == "settings" else 1e-4}
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    trainer = zo.FusedTrainer(model, adam, directions=16, ranks=ranks, **settings)
    for step in range(8):
        if what == "later" and odd and step == 4:
            adam.param_groups[0]["lr"] = 0.0200001
        trainer.step(*batch(step, seed=int(odd and what == "batches" and step >= 4)))


def leave(folder, what):
    """Rank 1 is killed, or hangs, in the fourth step; the others must say so."""
    ranks = zo.Ranks(shards=4, timeout=4.0)
    model = network()
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=16, ranks=ranks)
    for step in range(8):
        x, y = batch(step)
        if dist.get_rank() == 1 and step == 3:
            if what == "hang":
                time.sleep(30.0)
            os.kill(os.getpid(), 9)
        opt.step(lambda x=x, y=y: F.cross_entropy(model(x), y))


def main():
    case, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    if case == "runs":
        torch.save(every_run(), folder / f"{dist.get_world_size()}-{dist.get_rank()}.pt")
    else:
        {"differ": differ, "leave": leave}[case](folder, sys.argv[3])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
