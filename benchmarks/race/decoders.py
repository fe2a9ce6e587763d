"""Hugging Face's decoders from small configurations, with random weights: token indices in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEEDS = ("transformers",)
"""Packages without which there is no decoder."""


def missing() -> list[str]:
    """Those of :data:`NEEDS` that are not installed."""
    return [name for name in NEEDS if find_spec(name) is None]


class Decoder(nn.Module):
    """A causal language model behind one positional argument, as the suite's networks are called.

    Args:
        model: What transformers made.
        last: Only the last position predicts.
    """

    def __init__(self, model: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, x: Tensor) -> Tensor:
        """[N, T] token indices, of any dtype, to logits [N, T, vocabulary], or [N, vocabulary] of the last."""
        kept = {"logits_to_keep": 1} if self.last else {}
        logits = self.model(input_ids=x.long(), use_cache=False, **kept).logits
        return logits[:, 0] if self.last else logits


def gpt2(
    vocabulary: int, width: int, layers: int, heads: int, context: int, seed: int = 0, last: bool = False
) -> Decoder:
    """GPT-2 without dropout, as MeZO evaluates it; its head is tied to its embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _seeded(
        lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=context,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
            )
        ),
        seed, last,
    )  # fmt: skip


def llama(
    vocabulary: int, width: int, layers: int, heads: int, context: int, seed: int = 0, last: bool = False
) -> Decoder:
    """Llama; its head has weights of its own, and its gated layer is 8/3 times as wide as the stream."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _seeded(
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=width, intermediate_size=-(-8 * width // 3 // 16) * 16,
                num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
                max_position_embeddings=context, bos_token_id=None, eos_token_id=None,
            )
        ),
        seed, last,
    )  # fmt: skip


def _seeded(make: Callable[[], Any], seed: int, last: bool) -> Decoder:
    """Torch's own generator, from which transformers draws, stays where it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Decoder(make(), last)


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits [N, T, vocabulary] and the tokens that followed [N, T]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
