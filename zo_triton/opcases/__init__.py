"""The catalogue of operations: a case of each builds its operands, calls it and tells how much work it is.

A case (``case.py``) is plain data: sizes, directions, dtype and whatever else makes different code or work of an
operation. The compile list, the tuner, the GPU's checks and timings and ``pytest --benchmark`` all take their
operands from here, each at its own sizes. There is one file a family of operations; ``sizes.py`` has the sizes at
which kernels are timed and tuned.
"""

from zo_triton.opcases.case import Arguments, Case, Work
from zo_triton.opcases.elementwise import ActivationCase, CrossEntropyCase, LargestCase
from zo_triton.opcases.field import GramCase, RoundingCase, SampleCase, StageCase, UpdateCase
from zo_triton.opcases.layers import ConvolutionCase, LayerCase, LinearCase
from zo_triton.opcases.network import NetworkCase
from zo_triton.opcases.nodes import (
    NodeConvolutionCase,
    NodeEpilogueCase,
    NodeGradientCase,
    NodeLinearCase,
    NodeNetworkCase,
    NodeSampleCase,
)
from zo_triton.opcases.operands import BlankOperands, Operands, RandomOperands

CASES: tuple[type[Case], ...] = (
    StageCase,
    SampleCase,
    UpdateCase,
    RoundingCase,
    GramCase,
    LinearCase,
    ConvolutionCase,
    NetworkCase,
    ActivationCase,
    LargestCase,
    CrossEntropyCase,
    NodeSampleCase,
    NodeEpilogueCase,
    NodeLinearCase,
    NodeConvolutionCase,
    NodeGradientCase,
    NodeNetworkCase,
)
"""One for each operation that an engine offers."""

__all__ = [
    "CASES",
    "ActivationCase",
    "Arguments",
    "BlankOperands",
    "Case",
    "ConvolutionCase",
    "CrossEntropyCase",
    "GramCase",
    "LargestCase",
    "LayerCase",
    "LinearCase",
    "NetworkCase",
    "NodeConvolutionCase",
    "NodeEpilogueCase",
    "NodeGradientCase",
    "NodeLinearCase",
    "NodeNetworkCase",
    "NodeSampleCase",
    "Operands",
    "RandomOperands",
    "RoundingCase",
    "SampleCase",
    "StageCase",
    "UpdateCase",
    "Work",
]
