"""Every model of the suite takes its steps on the stand-in for a GPU, with the results that it has on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from cuda_stand_in import CUDA, Far, cuda, to_cuda
from torch import nn

import zo_triton as zo
from benchmarks.race.gpt import TinyGPT
from benchmarks.race.networks import make_cnn, make_lenet, make_mlp


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Counting(nn.Module):
    """A gate of torch's own elementwise functions, one of which has no rule, and a buffer that is bound anew."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(7, 6), nn.Linear(6, 5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float32))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.last(torch.special.bessel_j0(self.first(x)))


def images():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
        nn.Flatten(), nn.Linear(36, 5), nn.LayerNorm(5),
    )  # fmt: skip


def dropping():
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 5))


MODELS = {
    "perceptron": (lambda: make_mlp((12, 9, 5), 0), (6, 12)),
    "GELU": (lambda: make_mlp((12, 9, 5), 0, nn.GELU), (6, 12)),
    "lenet": (lambda: make_lenet(0), (4, 784)),
    "convolutions": (lambda: make_cnn((1, 8, 8), 5, 0), (6, 64)),
    "tiny-gpt": (lambda: TinyGPT(60, 8, 0), (6, 8)),
    "batch norm": (images, (6, 64)),
    "recurrent": (Recurrent, (3, 5, 4)),
    "dropout": (dropping, (6, 7)),
    "no rule": (Counting, (6, 7)),
    "bfloat16": (lambda: make_mlp((12, 9, 5), 0).bfloat16(), (6, 12)),
}
OPTIMIZERS = {
    "one-sided": (zo.ZOSGD, {}),
    "both sides, momentum, decay": (zo.ZOSGD, {"sides": 2, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (zo.ZOAdam, {}),
    "in chunks": (zo.ZOSGD, {"chunk": 2}),
    "normalized": (zo.ZOSGD, {"aggregator": "normalized"}),
    "aligned": (zo.ZOSGD, {"aggregator": "align"}),
    "sphere": (zo.ZOSGD, {"distribution": "sphere"}),
    "low rank": (zo.ZOSGD, {"rank": 2}),
    "stochastic rounding": (zo.ZOSGD, {"low_precision": "stochastic"}),
    "activations": (zo.ZOSGD, {"perturb": "activations"}),
    "auto": (zo.ZOSGD, {"perturb": "auto"}),
}
ON_THE_HOST = {"aligned": 1, "no rule": 2}
"""Reads beyond the one of a step: for what is solved on the host, and for whether a function repeats its values."""
CASES = [
    *((name, "one-sided") for name in MODELS),
    *((name, way) for name in ("perceptron", "tiny-gpt") for way in OPTIMIZERS),
    ("bfloat16", "stochastic rounding"),
]


def built(name, way, there):
    """A seeded model, its optimizer and its closure, on a batch of its own."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make()
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(5, shape[:1], generator=generator)
    if name == "tiny-gpt":
        x = torch.randint(60, shape, generator=generator)
    else:
        x = torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)
    if there:
        model, x, y = to_cuda(model), Far(x), Far(y)
    kind, settings = OPTIMIZERS[way]
    optimizer = kind(model.parameters(), lr=0.05, directions=4, seed=3, **settings)
    return model, optimizer, lambda: F.cross_entropy(model(x).float(), y, reduction="none").mean()


def same_weights(far, near):
    for a, b in zip(far.parameters(), near.parameters(), strict=True):
        torch.testing.assert_close(a.held, b.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule for torch.special.bessel_j0")
@pytest.mark.parametrize(("name", "way"), list(dict.fromkeys(CASES)))
def test_steps_are_those_of_the_cpu_and_read_once(name, way):
    near, optimizer, closure = built(name, way, there=False)
    with zo.use_engine("reference"):
        losses = [optimizer.step(closure) for _ in range(4)]
    with cuda() as device:
        far, optimizer, closure = built(name, way, there=True)
        for loss in losses:
            device.reads.clear()
            assert optimizer.step(closure) == pytest.approx(loss, rel=1e-5)
        # The steps before settle the plan, and look which samples depend on which.
        assert len(device.reads) == 1 + ON_THE_HOST.get(way, 0) + ON_THE_HOST.get(name, 0), device.reads
        same_weights(far, near)


RECORDED = [
    *((name, "one-sided") for name in MODELS if name != "no rule"),
    *(("perceptron", way) for way in OPTIMIZERS if way not in ("aligned", "in chunks", "adam")),
    ("tiny-gpt", "activations"),
    ("bfloat16", "stochastic rounding"),
]


@pytest.mark.parametrize(("name", "way"), list(dict.fromkeys(RECORDED)))
def test_a_recorded_step_reads_nothing_and_does_what_ordinary_steps_do(name, way):
    near, optimizer, closure = built(name, way, there=False)
    with zo.use_engine("reference"):
        losses = [optimizer.step(closure) for _ in range(6)]
    with cuda() as device:
        far, optimizer, closure = built(name, way, there=True)
        step = zo.CapturedStep(optimizer, closure)
        device.reads.clear()
        found = [step().held.item() for _ in range(3)]
        assert device.reads == []
        assert found == pytest.approx(losses[3:], rel=1e-5)
        same_weights(far, near)


@pytest.mark.parametrize("way", ["one-sided", "activations"])
def test_what_no_step_can_use_is_refused_there_too(way):
    with cuda():
        w, x = Far(torch.ones(3, 2)), Far(torch.ones(4, 2))
        optimizer = zo.ZOSGD([w], lr=0.1, directions=4, **OPTIMIZERS[way][1])
        x[0] = torch.nan
        with pytest.raises(zo.NonFiniteLossError, match="the loss is nan"):
            optimizer.step(lambda: F.linear(x, w).square().sum(1).mean())
        assert w.tolist() == [[1.0, 1.0]] * 3


def test_the_stand_in_refuses_what_a_gpu_does():
    with cuda() as device:
        there, here = torch.ones(3, device=CUDA, dtype=torch.float32), torch.ones(3, dtype=torch.float32)
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            there + here
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            there.numpy()
        assert device.reads == []
        assert (there + 1).sum().item() == 6.0
        assert there.tolist() == [1.0] * 3
        assert len(device.reads) == 2
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            for read in (there.sum().item, there.tolist, there.cpu, lambda: torch.cuda.get_rng_state(CUDA)):
                with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
                    read()


def test_a_recorded_graph_runs_again_in_the_tensors_it_was_recorded_with():
    with cuda():
        graph, x = torch.cuda.CUDAGraph(), torch.ones(3, device=CUDA, dtype=torch.float32)
        with torch.cuda.graph(graph):
            doubled = x * 2
            doubled[1:] += 1
            x += 1
        assert x.tolist() == [1.0] * 3
        x.fill_(5.0)
        graph.replay()
        assert doubled.tolist() == [10.0, 11.0, 11.0]
        assert x.tolist() == [6.0] * 3


def _gradient(model, x, y):
    params = list(model.parameters())
    for params_ in params:
        params_.grad = None
    zo.estimate_gradient(lambda: F.cross_entropy(model(x), y), params, zo.Directions(3, 0, 4), eps=1e-3)
    return [param.grad for param in params]


def _differences(model, x, y):
    closure = lambda: F.cross_entropy(model(x), y, reduction="none")  # noqa: E731
    return list(zo.differences(closure, list(model.parameters()), zo.Directions(3, 0, 4, "gaussian"), 1e-3))


def _black_box(model, x, y):
    optimizer = zo.ZOSGD(model.parameters(), lr=0.05, directions=4, seed=3)
    optimizer.step(zo.BlackBox(lambda: F.cross_entropy(model(x), y)))
    return list(model.parameters())


def _trainer(model, x, y):
    trainer = zo.FusedTrainer(model, torch.optim.Adam(model.parameters(), lr=0.05), directions=4, seed=3)
    trainer.step(x, y), trainer.step(x, y)
    return list(model.parameters())


def _drawn(model, x, y):
    return [zo.sample(zo.Directions(1, 2, 3, "sphere"), 0, (5, 4), device=x.device)]


ENTRIES = [_gradient, _differences, _black_box, _trainer, _drawn]
LAYERS = {
    "ZOMLP": (lambda: zo.ZOMLP([12, 8, 5]), (6, 12)),
    "ZOLinear": (lambda: zo.ZOLinear(12, 5, activation="relu"), (6, 12)),
    "ZOConv2d": (
        lambda: nn.Sequential(zo.ZOConv2d(2, 5, 3, activation="gelu"), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        (2, 2, 6, 6),
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_functions_give_there_what_they_give_here(entry, name):
    make, shape = LAYERS[name]
    x, y = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)),
        torch.tensor([0, 4, 1, 2, 3, 0])[: shape[0]],
    )
    torch.manual_seed(2)
    with zo.use_engine("reference"):
        near = entry(make(), x, y)
    torch.manual_seed(2)
    with cuda():
        far = entry(to_cuda(make()), Far(x), Far(y))
        assert all(value.device == CUDA for value in far)
        for a, b in zip(far, near, strict=True):
            torch.testing.assert_close(a.cpu(), b.detach(), rtol=1e-4, atol=1e-6)
