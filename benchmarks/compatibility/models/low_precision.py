"""Models with bfloat16 weights, as large ones are fine-tuned."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.compatibility.model import Model
from benchmarks.compatibility.models import decoders, encoder_decoders, encoders, peft_models, vision

NEEDS = ("transformers", "peft")

NAMES = (
    "gpt2", "opt", "llama", "mistral", "qwen3", "gemma2", "phi3", "mixtral", "bert", "roberta", "t5", "bart", "vit",
    "PEFT LoRA on llama", "PEFT DoRA on llama",
)  # fmt: skip


def _rows() -> list[Model]:
    known = {
        model.name: model
        for file in (decoders, encoders, encoder_decoders, vision, peft_models)
        for model in file.MODELS
    }
    return [replace(known[name], name=f"{name}, bfloat16", dtype=torch.bfloat16) for name in NAMES]


MODELS = _rows()
