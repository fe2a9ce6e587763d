"""Every kernel in the shapes that make different code of it, as ordinary calls on tensors that nobody reads.

A call takes a tuning config, plain data as the launchers take them, or None for the launcher's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from zo_triton import kernels
from zo_triton.compilation.launches_before import (
    few,
    project_images,
    project_inputs,
    stage_by_taps,
    take_apart,
)
from zo_triton.directions import Directions
from zo_triton.kernels.choices import CANDIDATES, Config
from zo_triton.kernels.field import step_on_device
from zo_triton.kernels.launch import Launch, recording
from zo_triton.opcases import (
    ActivationCase,
    BlankOperands,
    Case,
    ConvolutionCase,
    CrossEntropyCase,
    GramCase,
    LargestCase,
    LinearCase,
    NetworkCase,
    NodeConvolutionCase,
    NodeEpilogueCase,
    NodeGradientCase,
    NodeLinearCase,
    NodeNetworkCase,
    NodeSampleCase,
    RoundingCase,
    SampleCase,
    StageCase,
    UpdateCase,
)

HALF, SINGLE = torch.bfloat16, torch.float32
LINEAR_HALF = CANDIDATES["perturbed_linear", "bfloat16"]
LINEAR_SINGLE = CANDIDATES["perturbed_linear", "float32"]
CONVOLUTION_HALF = CANDIDATES["perturbed_conv2d", "bfloat16"]
LAYERS = [(128, 784), (128, 128), (10, 128)]


@dataclass(frozen=True)
class Variant:
    """One shape of one kernel.

    Attributes:
        kernel: The operation's name.
        call: Runs the operation with a config, or with the launcher's own for None.
        configs: Configs worth compiling beside the launcher's own.
        backends: Triton's names of those that the call makes sense on.
    """

    kernel: str
    call: Callable[[Config | None], object]
    configs: Sequence[Config] = ()
    backends: Sequence[str] = ("cuda", "hip")

    def launch(self, config: Config | None = None) -> Launch:
        """What the call launches last.

        Raises:
            ValueError: The call launches nothing.
        """
        with recording() as launches:
            self.call(config)
        if not launches:
            raise ValueError(f"this call of {self.kernel} launches no kernel.")
        return launches[-1]


def _call(case: Case, options: dict[str, Any], config: Config | None) -> None:
    """The case's launcher, which takes a config only where its operation has a choice of them."""
    if config is not None:
        options = {**options, "config": dict(config)}
    getattr(kernels, case.op)(*case.arguments(BlankOperands()), **options)


def _call_captured(case: Case, options: dict[str, Any], config: Config | None) -> None:
    """As in a CUDA graph of a step, whose number is read from memory."""
    with step_on_device(torch.empty(1, dtype=torch.int32, device="cpu")):
        _call(case, options, config)


def _variant(case: Case, configs: Sequence[Config] = (), **options: Any) -> Variant:
    # AMD's matrix units multiply float32 themselves.
    backends = ("cuda",) if options.get("precision") in ("bf16x6", "tf32") else ("cuda", "hip")
    return Variant(case.op, partial(_call, case, options), configs, backends)


def _linear(
    dtype: torch.dtype,
    distribution: str = "rademacher",
    rank: int | None = None,
    features: int = 1024,
    **shape: Any,
) -> LinearCase:
    """A layer of ``features`` × 512 on 256 samples; 784 features leave a ragged edge."""
    directions = few(distribution, rank)
    return LinearCase(directions=directions, samples=256, inputs=features, outputs=512, dtype=dtype, **shape)


def _image(
    dtype: torch.dtype,
    distribution: str = "rademacher",
    rank: int | None = None,
    kernel: int = 3,
    channels: tuple[int, int] = (64, 64),
    **shape: Any,
) -> ConvolutionCase:
    """A padded layer on 8 samples of 28 × 28."""
    return ConvolutionCase(
        directions=few(distribution, rank), samples=8, channels=channels, size=(28, 28),
        kernel=(kernel, kernel), padding=(kernel // 2, kernel // 2), dtype=dtype, **shape,
    )  # fmt: skip


def _network(*widths: int, distribution: str = "rademacher", **shape: Any) -> NetworkCase:
    """A whole network on 128 samples."""
    return NetworkCase(directions=few(distribution), widths=widths, samples=128, **shape)


def _nodes(distribution: str = "hadamard", num: int = 8) -> Directions:
    return Directions(0, 0, num, distribution)


def _node_linear(dtype: torch.dtype, distribution: str = "hadamard", **shape: Any) -> NodeLinearCase:
    """A layer of 1024 × 512 on 256 samples."""
    sizes = {"samples": 256, "inputs": 1024, "outputs": 512, **shape}
    return NodeLinearCase(directions=_nodes(distribution), dtype=dtype, **sizes)


def _node_image(
    dtype: torch.dtype,
    kernel: int = 3,
    channels: tuple[int, int] = (64, 64),
    side: int = 28,
    **shape: Any,
) -> NodeConvolutionCase:
    """A padded layer on 8 samples."""
    return NodeConvolutionCase(
        directions=_nodes(), samples=8, channels=channels, size=(side, side), kernel=(kernel, kernel),
        padding=(kernel // 2, kernel // 2), dtype=dtype, **shape,
    )  # fmt: skip


def _node_network(*widths: int, **shape: Any) -> NodeNetworkCase:
    """A whole network on 128 samples."""
    return NodeNetworkCase(directions=_nodes(num=64), widths=widths, samples=128, **shape)


def _update(distribution: str = "rademacher", rank: int | None = None) -> UpdateCase:
    return UpdateCase(directions=few(distribution, rank), shapes=[(1024, 1024)])


def _update_of_many(
    shapes: Sequence[Sequence[int]] = LAYERS, distribution: str = "rademacher", rank: int | None = None
) -> UpdateCase:
    """Several tensors and thousands of directions."""
    return UpdateCase(directions=few(distribution, rank, 4096), shapes=shapes)


def _gram(distribution: str = "rademacher", rank: int | None = None) -> GramCase:
    return GramCase(directions=few(distribution, rank, 32), shapes=[(1024, 1024)])


def _sample(distribution: str) -> SampleCase:
    return SampleCase(directions=few(distribution), rows=64, cols=64)


def _rounded(dtype: torch.dtype) -> RoundingCase:
    return RoundingCase(directions=few(), shape=(1024, 1024), dtype=dtype)


VARIANTS: dict[str, Variant] = {
    "linear bf16 staged": _variant(_linear(HALF), LINEAR_HALF, bits="staged"),
    "linear bf16 staged gelu": _variant(_linear(HALF, activation="gelu"), bits="staged"),
    "linear bf16 staged both sides": _variant(_linear(HALF, sides=2), bits="staged"),
    "linear bf16 staged both sides ragged": _variant(_linear(HALF, sides=2, features=784), bits="staged"),
    "linear bf16 staged first layer": _variant(_linear(HALF, sides=2, first=True), bits="staged"),
    "linear bf16 inline": _variant(_linear(HALF), bits="inline"),
    "linear bf16 inline both sides": _variant(_linear(HALF, sides=2), LINEAR_HALF, bits="inline"),
    "linear bf16 inline both sides ragged": _variant(_linear(HALF, sides=2, features=784), bits="inline"),
    "linear bf16 orthogonal both sides": _variant(_linear(HALF, "hadamard", sides=2), bits="inline"),
    "linear bf16 1000 features": _variant(_linear(HALF, features=1000), bits="staged"),
    "linear bf16 gaussian": _variant(_linear(HALF, "gaussian"), LINEAR_HALF, bits="inline"),
    "linear bf16 gaussian both sides": _variant(_linear(HALF, "gaussian", sides=2), bits="inline"),
    "linear bf16 gaussian gelu": _variant(_linear(HALF, "gaussian", activation="gelu"), bits="inline"),
    "linear bf16 inline captured": Variant(
        "perturbed_linear", partial(_call_captured, _linear(HALF), {"bits": "inline"})
    ),
    "linear bf16 rank 4": _variant(_linear(HALF, rank=4, sides=2), bits="inline"),
    "linear bf16 rank 4 one side": _variant(_linear(HALF, rank=4), bits="inline"),
    "linear bf16 rank 4 first launch": Variant(
        "perturbed_linear", partial(project_inputs, HALF, "ieee")
    ),
    "linear fp32 inline both sides": _variant(_linear(SINGLE, sides=2), LINEAR_SINGLE, bits="inline"),
    "linear fp32 gaussian": _variant(_linear(SINGLE, "gaussian"), bits="inline"),
    "linear fp32 rank 4 both sides": _variant(_linear(SINGLE, rank=4, sides=2), bits="inline"),
    "linear fp32 rank 4 first launch": Variant(
        "perturbed_linear", partial(project_inputs, SINGLE, "bf16x6"), backends=("cuda",)
    ),
    "linear fp32 staged": _variant(_linear(SINGLE), bits="staged"),
    "linear fp32 staged gelu": _variant(_linear(SINGLE, activation="gelu"), bits="staged"),
    "linear fp32 first layer": _variant(_linear(SINGLE, sides=2, first=True), bits="staged"),
    "linear fp32 ieee": _variant(_linear(SINGLE), bits="inline", precision="ieee"),
    "linear fp32 gaussian ieee": _variant(_linear(SINGLE, "gaussian"), bits="inline", precision="ieee"),
    "linear fp32 rank 4 both sides ieee": _variant(
        _linear(SINGLE, rank=4, sides=2), bits="inline", precision="ieee"
    ),
    "linear fp32 rank 4 first launch ieee": Variant(
        "perturbed_linear", partial(project_inputs, SINGLE, "ieee")
    ),
    "linear fp32 tf32": _variant(_linear(SINGLE), bits="inline", precision="tf32"),
    "linear bf16 staged transposed": _variant(_linear(HALF, transposed=True), bits="staged"),
    "linear bf16 inline transposed both sides": _variant(_linear(HALF, sides=2, transposed=True), bits="inline"),
    "linear bf16 gaussian transposed": _variant(_linear(HALF, "gaussian", transposed=True), bits="inline"),
    "linear fp32 inline transposed both sides": _variant(
        _linear(SINGLE, sides=2, transposed=True, features=784), bits="inline"
    ),
    "linear fp32 rank 4 transposed": _variant(_linear(SINGLE, rank=4, transposed=True), bits="inline"),
    "conv bf16 staged": _variant(_image(HALF), CONVOLUTION_HALF, bits="staged"),
    "conv bf16 staged both sides": _variant(_image(HALF, sides=2), bits="staged"),
    "conv bf16 staged 128 channels": _variant(_image(HALF, channels=(128, 128)), bits="staged"),
    "conv bf16 staged 128 channels both sides": _variant(
        _image(HALF, sides=2, channels=(128, 128)), bits="staged"
    ),
    "conv bf16 staged 40 channels gelu": _variant(
        _image(HALF, channels=(40, 72), activation="gelu"), bits="staged"
    ),
    "conv bf16 first layer of 3 channels": _variant(
        _image(HALF, sides=2, channels=(3, 64), first=True), bits="staged"
    ),
    "conv bf16 inline both sides": _variant(_image(HALF, sides=2), bits="inline"),
    "conv bf16 staged both sides 1x1": _variant(_image(HALF, sides=2, kernel=1), bits="staged"),
    "conv bf16 gaussian": _variant(_image(HALF, "gaussian"), bits="inline"),
    "conv bf16 gaussian both sides": _variant(_image(HALF, "gaussian", sides=2), bits="inline"),
    "conv bf16 rank 4 both sides": _variant(_image(HALF, rank=4, sides=2), bits="inline"),
    "conv bf16 rank 4 one side": _variant(_image(HALF, rank=4), bits="inline"),
    "conv bf16 rank 4 128 channels both sides": _variant(
        _image(HALF, rank=4, sides=2, channels=(128, 128)), bits="inline"
    ),
    "conv bf16 rank 4 first launch": Variant("perturbed_conv2d", partial(project_images, HALF, "ieee")),
    "conv bf16 rank 4 6 to 16 channels": _variant(
        _image(HALF, rank=4, sides=2, channels=(6, 16), kernel=5), bits="inline"
    ),
    "conv bf16 groups of 6 gelu": _variant(
        _image(HALF, sides=2, channels=(12, 12), groups=2, activation="gelu"), bits="inline"
    ),
    "depthwise bf16 both sides": _variant(_image(HALF, sides=2, groups=64), bits="staged"),
    "depthwise fp32 gaussian": _variant(_image(SINGLE, "gaussian", groups=64), bits="inline"),
    "conv fp32 staged": _variant(_image(SINGLE), bits="staged"),
    "conv fp32 staged both sides": _variant(_image(SINGLE, sides=2), bits="staged"),
    "conv fp32 ieee": _variant(_image(SINGLE), bits="inline", precision="ieee"),
    "conv fp32 staged both sides ieee": _variant(_image(SINGLE, sides=2), bits="staged", precision="ieee"),
    "conv fp32 staged both sides tf32": _variant(_image(SINGLE, sides=2), bits="staged", precision="tf32"),
    "conv fp32 staged 128 channels both sides gelu": _variant(
        _image(SINGLE, sides=2, channels=(128, 128), activation="gelu"), bits="staged"
    ),
    "conv fp32 inline": _variant(_image(SINGLE), bits="inline"),
    "conv fp32 inline tf32": _variant(_image(SINGLE), bits="inline", precision="tf32"),
    "conv fp32 orthogonal both sides": _variant(_image(SINGLE, "hadamard", sides=2), bits="inline"),
    "conv fp32 inline both sides": _variant(_image(SINGLE, sides=2), bits="inline"),
    "conv fp32 gaussian": _variant(_image(SINGLE, "gaussian"), bits="inline"),
    "conv fp32 gaussian both sides": _variant(_image(SINGLE, "gaussian", sides=2), bits="inline"),
    "conv fp32 rank 4 both sides": _variant(_image(SINGLE, rank=4, sides=2), bits="inline"),
    "conv fp32 rank 4 both sides ieee": _variant(
        _image(SINGLE, rank=4, sides=2), bits="inline", precision="ieee"
    ),
    "conv fp32 rank 4 first launch": Variant(
        "perturbed_conv2d", partial(project_images, SINGLE, "bf16x6"), backends=("cuda",)
    ),
    "conv fp32 rank 4 first launch ieee": Variant(
        "perturbed_conv2d", partial(project_images, SINGLE, "ieee")
    ),
    "conv fp32 rank 4 6 to 16 channels": _variant(
        _image(SINGLE, rank=4, sides=2, channels=(6, 16), kernel=5), bits="inline"
    ),
    "conv fp32 6 to 16 channels": _variant(
        _image(SINGLE, sides=2, channels=(6, 16), kernel=5), bits="staged"
    ),
    "conv fp32 first layer": _variant(
        _image(SINGLE, sides=2, channels=(1, 6), kernel=5, first=True), bits="inline"
    ),
    "mlp 64-32-10": _variant(_network(64, 32, 10)),
    "mlp parts": Variant("mlp_differences", take_apart),
    "mlp 64-32-10 orthogonal": _variant(_network(64, 32, 10, distribution="hadamard")),
    "mlp 784-128-128-10 both sides": _variant(_network(784, 128, 128, 10, sides=2)),
    "mlp 784-128-128-10": _variant(_network(784, 128, 128, 10), CANDIDATES["mlp_differences", "float32"]),
    "mlp 784-100-100-10 both sides": _variant(_network(784, 100, 100, 10, sides=2)),
    "mlp 784-128-10 squared error": _variant(_network(784, 128, 10, squared=True)),
    "mlp 784-64-64-64-10 both sides": _variant(_network(784, 64, 64, 64, 10, sides=2)),
    "nodes linear bf16": _variant(_node_linear(HALF), CANDIDATES["node_linear", "bfloat16"]),
    "nodes linear bf16 gelu both sides": _variant(_node_linear(HALF, sides=2, activation="gelu")),
    "nodes linear bf16 tokens of 1000 features": _variant(_node_linear(HALF, inputs=1000, outputs=500, rows=4)),
    "nodes linear bf16 captured": Variant("node_linear", partial(_call_captured, _node_linear(HALF), {})),
    "nodes linear bf16 rademacher": _variant(_node_linear(HALF, "rademacher")),
    "nodes linear fp32": _variant(_node_linear(SINGLE), CANDIDATES["node_linear", "float32"]),
    "nodes linear fp32 ieee": _variant(_node_linear(SINGLE), precision="ieee"),
    "nodes conv bf16": _variant(_node_image(HALF), CANDIDATES["node_conv2d", "bfloat16"]),
    "nodes conv bf16 128 channels": _variant(_node_image(HALF, channels=(128, 128))),
    "nodes conv bf16 128 channels gelu": _variant(
        _node_image(HALF, channels=(128, 128), side=7, activation="gelu")
    ),
    "nodes conv bf16 7x7 gelu": _variant(_node_image(HALF, side=7, activation="gelu")),
    "nodes conv bf16 groups of 6": _variant(_node_image(HALF, channels=(12, 12), groups=2)),
    "nodes conv fp32": _variant(_node_image(SINGLE), CANDIDATES["node_conv2d", "float32"]),
    "nodes conv fp32 ieee": _variant(_node_image(SINGLE), precision="ieee"),
    "nodes depthwise bf16": _variant(_node_image(HALF, groups=64)),
    "nodes mlp 784-128-128-10": _variant(
        _node_network(784, 128, 128, 10), CANDIDATES["node_mlp_differences", "float32"]
    ),
    "nodes mlp 784-128-128-10 ieee": _variant(_node_network(784, 128, 128, 10), precision="ieee"),
    "nodes mlp 784-128-128-10 bf16": _variant(
        _node_network(784, 128, 128, 10), CANDIDATES["node_mlp_differences", "float32"], precision="bf16"
    ),
    "nodes mlp 784-128-128-10 bf16 gelu both sides": _variant(
        _node_network(784, 128, 128, 10, sides=2, activation="gelu"), precision="bf16"
    ),
    "nodes mlp 784-100-64-32-10 squared error": _variant(_node_network(784, 100, 64, 32, 10, squared=True)),
    "nodes epilogue bf16": _variant(
        NodeEpilogueCase(directions=_nodes(), samples=256, positions=512, dtype=HALF)
    ),
    "nodes gradient 64 directions": _variant(
        NodeGradientCase(directions=_nodes(num=64), samples=256, positions=4096)
    ),
    "nodes gradient of tokens": _variant(
        NodeGradientCase(directions=_nodes(num=64), samples=256, positions=8 * 500, tokens=8)
    ),
    "nodes gradient rademacher": _variant(
        NodeGradientCase(directions=_nodes("rademacher", num=64), samples=256, positions=4096)
    ),
    "nodes sample": _variant(NodeSampleCase(directions=_nodes(), samples=64, positions=512)),
    "accumulate rademacher": _variant(_update(), CANDIDATES["accumulate", "float32"]),
    "accumulate orthogonal": _variant(_update("hadamard")),
    "accumulate gaussian": _variant(_update("gaussian")),
    "accumulate uniform": _variant(_update("uniform")),
    "accumulate rank 4": _variant(_update(rank=4)),
    "accumulate gaussian rank 4": _variant(_update("gaussian", rank=4)),
    "accumulate rademacher of many": _variant(_update_of_many()),
    "accumulate rademacher of many vectors": _variant(_update_of_many([(128,), (128,), (10,)])),
    "accumulate orthogonal of many": _variant(_update_of_many(distribution="hadamard")),
    "accumulate gaussian of many": _variant(_update_of_many(distribution="gaussian")),
    "accumulate rank 4 of many": _variant(_update_of_many(rank=4)),
    "gram rademacher": _variant(_gram(), CANDIDATES["gram", "float32"]),
    "gram gaussian": _variant(_gram("gaussian")),
    "gram rank 4": _variant(_gram(rank=4)),
    "sample laplace": _variant(_sample("laplace")),
    "sample gaussian": _variant(_sample("gaussian")),
    "stage signs": _variant(StageCase(directions=few(), rows=512, cols=1024)),
    "stage signs by taps": Variant("stage", stage_by_taps),
    "stage orthogonal signs": _variant(StageCase(directions=few("hadamard"), rows=512, cols=1024)),
    "stochastic add bf16": _variant(_rounded(torch.bfloat16)),
    "stochastic add fp16": _variant(_rounded(torch.float16)),
    "activation gelu": _variant(
        ActivationCase(evaluations=4, samples=256, features=512, activation="gelu")
    ),
    "largest of 3x3": _variant(LargestCase(evaluations=4, planes=384, side=28, window=3, padding=1)),
    "cross entropy": _variant(CrossEntropyCase(evaluations=4, samples=256, classes=10, smoothing=0.1)),
}  # fmt: skip
"""From a variant's name to it; the operation's options are in the name."""
