"""What can be named on the command line, for answers that need no framework; a test holds it to the tables."""

from __future__ import annotations

from benchmarks.named import Named

RACES = Named("race", {
    "digits-mlp": "digits, an MLP: the main race",
    "nzk-linear": "MNIST 3 v 5, a linear model, squared loss",
    "nzk-network": "MNIST 3 v 5, a small network, squared loss",
    "tiny-gpt": "the next character, a transformer of one block",
    "fine-tuning": "a small pre-trained GPT, all weights or adapters",
    "mnist-mlp": "MNIST, an MLP",
    "mnist-cnn": "MNIST, a convolutional network",
    "cifar-cnn": "CIFAR-10, a convolutional network",
    "tiny-imagenet-cnn": "Tiny ImageNet, a convolutional network",
    "digits-gpu": "digits on a GPU",
    "mnist-gpu": "MNIST on a GPU",
})  # fmt: skip
"""By name, what is trained."""

TASKS = Named("task", {
    "digits": "scikit-learn's digits, an MLP (default)",
    "mnist-mlp": "MNIST, an MLP of one hidden layer",
    "mnist-cnn": "MNIST, a convolutional network",
    "cifar-cnn": "CIFAR-10, a convolutional network",
    "tiny-imagenet-cnn": "Tiny ImageNet, a convolutional network",
    "mnist-gelu": "MNIST, an MLP of two hidden layers with GELU",
    "nzk-linear": "MNIST 3 v 5, a linear model",
    "nzk-network": "MNIST 3 v 5, a network 10-5",
    "tiny-gpt": "generated sentences, a transformer of one block",
    "fine-tuning": "a small pre-trained GPT",
    "fine-tuning-tiny": "a smaller one, in seconds",
})  # fmt: skip
"""By name, data and network."""

METHODS = Named("method", {
    "zo-adam": "Adam on the fused estimate (default)",
    "zo-sgd": "SGD with momentum on the fused estimate",
    "mezo-adam": "Adam on a loop of perturbed forward passes",
    "mezo-1": "MeZO: one direction a step",
    "adam": "Adam and backpropagation",
    "sgd": "SGD and backpropagation",
})  # fmt: skip
"""By name, what ``train`` trains with."""

NETWORKS = Named("network", {
    "linear regression": "digits as numbers",
    "softmax regression": "digits, on weights and on activations",
    "MLP 64-32-10, ReLU": "digits, on weights and on activations",
    "MLP of four layers, tanh": "digits",
    "MLP, LayerNorm, GELU": "digits",
    "MLP, BatchNorm, ReLU": "digits",
    "CNN, max pooling": "digits, enlarged",
    "CNN of the races": "digits, enlarged, on weights and on activations",
    "LeNet-5": "digits, enlarged",
    "LSTM": "digits, row by row",
    "tiny GPT": "generated sentences",
})  # fmt: skip
"""By name, what ``rates`` lets it learn."""

ENGINES = Named("engine", {
    "reference": "NumPy and torch in float64: short and slow",
    "cpu": "Numba and torch",
    "triton": "Triton's kernels",
})  # fmt: skip
"""By name, what they are written in."""

READINGS = Named("reading", {
    "columns": "along a row of the tensor",
    "rows": "the four rows of a block, block after block",
    "directions": "one element in 64 successive directions",
    "tensors": "one element of 64 successive tensors",
    "steps": "one element in 64 successive steps",
    "seeds": "one element under 64 successive seeds",
    "seed halves": "one element under seeds that differ in their upper half",
    "7 rounds": "as directions, with 7 rounds of Philox instead of 10",
})  # fmt: skip
"""By name, what follows what in a reading of the field."""
