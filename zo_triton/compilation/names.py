"""What can be compiled, by name, for answers that need no framework; a test holds it to the table of variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zo_triton.compilation.targets import TARGETS

_OF_KERNEL = {
    "perturbed_linear": (
        "linear bf16 staged", "linear bf16 staged gelu", "linear bf16 staged both sides",
        "linear bf16 staged both sides ragged", "linear bf16 staged first layer", "linear bf16 inline",
        "linear bf16 inline both sides", "linear bf16 inline both sides ragged",
        "linear bf16 orthogonal both sides", "linear bf16 1000 features", "linear bf16 gaussian",
        "linear bf16 gaussian both sides", "linear bf16 gaussian gelu", "linear bf16 inline captured",
        "linear bf16 rank 4", "linear bf16 rank 4 one side", "linear bf16 rank 4 first launch",
        "linear fp32 inline both sides", "linear fp32 gaussian",
        "linear fp32 rank 4 both sides", "linear fp32 rank 4 first launch", "linear fp32 staged",
        "linear fp32 staged gelu",
        "linear fp32 first layer", "linear fp32 ieee", "linear fp32 gaussian ieee",
        "linear fp32 rank 4 both sides ieee", "linear fp32 rank 4 first launch ieee", "linear fp32 tf32",
        "linear bf16 staged transposed",
        "linear bf16 inline transposed both sides", "linear bf16 gaussian transposed",
        "linear fp32 inline transposed both sides", "linear fp32 rank 4 transposed",
    ),
    "perturbed_conv2d": (
        "conv bf16 staged", "conv bf16 staged both sides", "conv bf16 staged 128 channels",
        "conv bf16 staged 128 channels both sides", "conv bf16 staged 40 channels gelu",
        "conv bf16 first layer of 3 channels", "conv bf16 inline both sides",
        "conv bf16 staged both sides 1x1", "conv bf16 gaussian", "conv bf16 gaussian both sides",
        "conv bf16 rank 4 both sides", "conv bf16 rank 4 one side",
        "conv bf16 rank 4 128 channels both sides", "conv bf16 rank 4 first launch",
        "conv bf16 rank 4 6 to 16 channels", "conv bf16 groups of 6 gelu", "depthwise bf16 both sides",
        "depthwise fp32 gaussian", "conv fp32 staged", "conv fp32 staged both sides", "conv fp32 ieee",
        "conv fp32 staged both sides ieee", "conv fp32 staged both sides tf32",
        "conv fp32 staged 128 channels both sides gelu", "conv fp32 inline", "conv fp32 inline tf32",
        "conv fp32 orthogonal both sides", "conv fp32 inline both sides", "conv fp32 gaussian",
        "conv fp32 gaussian both sides", "conv fp32 rank 4 both sides", "conv fp32 rank 4 both sides ieee",
        "conv fp32 rank 4 first launch", "conv fp32 rank 4 first launch ieee",
        "conv fp32 rank 4 6 to 16 channels", "conv fp32 6 to 16 channels", "conv fp32 first layer",
    ),
    "mlp_differences": (
        "mlp 64-32-10", "mlp parts", "mlp 64-32-10 orthogonal", "mlp 784-128-128-10 both sides",
        "mlp 784-128-128-10", "mlp 784-100-100-10 both sides", "mlp 784-128-10 squared error",
        "mlp 784-64-64-64-10 both sides",
    ),
    "node_linear": (
        "nodes linear bf16", "nodes linear bf16 gelu both sides", "nodes linear bf16 tokens of 1000 features",
        "nodes linear bf16 captured", "nodes linear bf16 rademacher", "nodes linear fp32",
        "nodes linear fp32 ieee",
    ),
    "node_conv2d": (
        "nodes conv bf16", "nodes conv bf16 128 channels", "nodes conv bf16 128 channels gelu",
        "nodes conv bf16 7x7 gelu", "nodes conv bf16 groups of 6", "nodes conv fp32", "nodes conv fp32 ieee",
        "nodes depthwise bf16",
    ),
    "node_mlp_differences": (
        "nodes mlp 784-128-128-10", "nodes mlp 784-128-128-10 ieee", "nodes mlp 784-128-128-10 bf16",
        "nodes mlp 784-128-128-10 bf16 gelu both sides", "nodes mlp 784-100-64-32-10 squared error",
    ),
    "node_epilogue": ("nodes epilogue bf16",),
    "node_gradient": (
        "nodes gradient 64 directions", "nodes gradient of tokens", "nodes gradient rademacher",
    ),
    "node_sample": ("nodes sample",),
    "accumulate": (
        "accumulate rademacher", "accumulate orthogonal", "accumulate gaussian", "accumulate uniform",
        "accumulate rank 4", "accumulate gaussian rank 4", "accumulate rademacher of many",
        "accumulate rademacher of many vectors", "accumulate orthogonal of many", "accumulate gaussian of many",
        "accumulate rank 4 of many",
    ),
    "gram": ("gram rademacher", "gram gaussian", "gram rank 4"),
    "sample": ("sample laplace", "sample gaussian"),
    "stage": ("stage signs", "stage signs by taps", "stage orthogonal signs"),
    "stochastic_add": ("stochastic add bf16", "stochastic add fp16"),
    "activation_difference": ("activation gelu",),
    "largest_difference": ("largest of 3x3",),
    "cross_entropy_difference": ("cross entropy",),
}  # fmt: skip

KERNELS = {name: kernel for kernel, names in _OF_KERNEL.items() for name in names}
"""From a variant's name to its kernel's."""


def check_targets(targets: Iterable[str]) -> None:
    """Refuses a chip that is not in the table.

    Raises:
        ValueError: No chip is called so; all known ones are listed.
    """
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"unknown target {target!r}; choose among {tuple(TARGETS)}.")


def check_parts(parts: Iterable[str], kernels: Mapping[str, str] = KERNELS) -> None:
    """Refuses a part of a name that no kernel and no variant has.

    Args:
        parts: As given.
        kernels: From a variant's name to its kernel's.

    Raises:
        ValueError: No name has the part; all variants are listed.
    """
    for part in parts:
        if not any(part in name or part in kernel for name, kernel in kernels.items()):
            raise ValueError(f"no kernel's name has {part!r} in it; known are {tuple(kernels)}.")
