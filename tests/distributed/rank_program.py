"""What one rank runs: ``python rank_program.py FOLDER CASE …``; the rank and its peers stand in the environment."""

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
    "orthogonal": lambda ranks: sgd(ranks, distribution="hadamard", aggregator="align"),
    "sphere": lambda ranks: sgd(ranks, distribution="sphere"),
    "chunks": lambda ranks: sgd(ranks, chunk=3),
    "black box": lambda ranks: sgd(ranks, box=True, eps=1e-2),
    "dropout, batch norm": lambda ranks: sgd(ranks, dropout=True),
    "adam": lambda ranks: adam(ranks),
    "adam, general": lambda ranks: adam(ranks, fused=False, sides=2),
    "activations": lambda ranks: sgd(ranks, perturb="activations"),
    "activations, adam": lambda ranks: adam(ranks, fused=False, perturb="activations"),
}
BATCH_RUNS = {
    "parts": lambda ranks: sgd(ranks),
    "parts, black box": lambda ranks: sgd(ranks, box=True, eps=1e-2),
    "parts, adam": lambda ranks: adam(ranks),
    "parts, central": lambda ranks: adam(ranks, sides=2),
}


NODE_BATCH_RUNS = {
    "parts, activations": lambda ranks: sgd(ranks, perturb="activations"),
    "parts, activations, adam": lambda ranks: adam(ranks, fused=False, perturb="activations"),
}


def every_run():
    """All results by name, for a comparison between numbers of ranks."""
    ranks = zo.Ranks(shards=4)
    found = {name: run(ranks) for name, run in RUNS.items()}
    ranks = zo.Ranks(shards=2, batch_shards=2)
    found |= {name: run(ranks) for name, run in BATCH_RUNS.items()}
    ranks = zo.Ranks(shards=1, batch_shards=4)
    return found | {name: run(ranks) for name, run in NODE_BATCH_RUNS.items()}


def told(program):
    """What a program ends with: the ranks that the error names, its text, and the seconds until it was raised."""
    start = time.monotonic()
    try:
        program()
    except zo.RankError as error:
        return error.ranks, str(error), time.monotonic() - start
    return None


def differ(what):
    """Rank 1 is in another state than the others."""
    odd = dist.get_rank() == 1
    version, zo.__version__ = zo.__version__, "0.0.1" if odd and what == "version" else zo.__version__
    try:
        ranks = zo.Ranks(shards=4, check_every=5 if odd and what == "arguments" else 3)
    finally:
        zo.__version__ = version
    model = network(seed=int(odd and what == "weights"))
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    eps = 1e-3 if odd and what == "settings" else 1e-4
    trainer = zo.FusedTrainer(model, adam, directions=16, eps=eps, ranks=ranks)
    for step in range(8):
        if odd and what == "lr" and step == 4:
            adam.param_groups[0]["lr"] = 0.0200001
        if odd and what == "memory" and step == 4:
            adam.state[next(model.parameters())]["exp_avg"] += 1e-8
        trainer.step(*batch(step, seed=int(odd and what == "batches" and step >= 4)))


DIFFERENCES = (
    "version",
    "arguments",
    "weights",
    "settings",
    "lr",
    "memory",
    "batches",
    "random",
    "random loss",
)


def differ_in_draws(what):
    """Rank 1 draws other dropout masks, or evaluates a loss of its own."""
    odd = dist.get_rank() == 1
    model = network(dropout=True)
    torch.manual_seed(int(odd and what == "random"))
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=16, ranks=zo.Ranks(shards=4))
    x, y = batch(0)
    opt.step(lambda: F.cross_entropy(model(x), y) + (0.5 if odd and what == "random loss" else 0.0))


def leave(by_force):
    """The last rank is killed, or hangs, in the fourth step."""
    ranks = zo.Ranks(shards=4, timeout=2.0)
    model = network()
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=16, ranks=ranks)
    x, y = batch(0)
    for step in range(8):
        if ranks.rank == ranks.size - 1 and step == 3:
            if by_force:
                os.kill(os.getpid(), 9)
            time.sleep(3600.0)
        opt.step(lambda: F.cross_entropy(model(x), y))


def main():
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    dist.init_process_group("gloo")
    mine = f"{dist.get_world_size()}-{dist.get_rank()}.pt"
    found = {}
    for case in cases:
        if case == "runs":
            found[case] = every_run()
        elif case == "differ":
            found[case] = {
                what: told(lambda what=what: (differ_in_draws if "random" in what else differ)(what))
                for what in DIFFERENCES
            }
        else:
            found[case] = told(lambda case=case: leave(case == "kill"))
        torch.save(found, folder / mine)


if __name__ == "__main__":
    main()
