"""A transformer small enough for zeroth-order training, and text for it to read."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zo_triton.data import Dataset

CONTEXT = 12
"""Characters that a prediction sees."""

ADJECTIVES = ("old", "red", "tall", "warm", "odd", "new")
NOUNS = ("cat", "hill", "lamp", "river", "ant", "moon")
VERBS = ("sees", "warms", "hides", "follows", "lifts", "hears")


def sentences(count: int = 700, seed: int = 0) -> Dataset:
    """Windows of generated sentences, "the old cat sees the moon." and so on, and the character after each.

    Where a word starts nobody can know which one comes; from its second or third letter on everybody can.

    Args:
        count: Sentences, the last fifth of which are the test part.
        seed: Of the words.

    Returns:
        Inputs [n, :data:`CONTEXT`] float32, character indices; targets [n] int64.
    """
    generator = np.random.default_rng(seed)

    def one(words: tuple[str, ...]) -> str:
        return words[generator.integers(len(words))]

    text = "".join(f"the {one(ADJECTIVES)} {one(NOUNS)} {one(VERBS)} the {one(NOUNS)}." for _ in range(count))
    characters, indices = np.unique(list(text), return_inverse=True)
    windows = np.lib.stride_tricks.sliding_window_view(indices, CONTEXT + 1)
    split = len(windows) * 4 // 5
    # No test window shares a character with a training window; every fourth test window is enough.
    train, test = windows[: split - CONTEXT], windows[split::4]
    x, y = (
        (part[:, :-1].astype(np.float32) for part in (train, test)),
        (part[:, -1] for part in (train, test)),
    )
    name = f"{count} generated sentences of {len(characters)} characters"
    (train_x, test_x), (train_y, test_y) = x, y
    return Dataset(name, train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64))


class TinyGPT(nn.Module):
    """One pre-norm block that predicts the character after its context.

    Args:
        characters: Size of the vocabulary.
        context: Characters of the input.
        seed: Of the weights.
        width: Of the residual stream.
        heads: Of the attention.
    """

    def __init__(self, characters: int, context: int, seed: int, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.heads = heads
            self.embedding = nn.Embedding(characters, width)
            self.place = nn.Parameter(torch.randn(context, width) / sqrt(width))
            self.first_norm, self.second_norm, self.last_norm = (nn.LayerNorm(width) for _ in range(3))
            self.attention, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.out = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """[N, context] character indices, of any dtype, to the next character's logits [N, characters]."""
        h = self.embedding(x.long()) + self.place
        samples, length, width = h.shape
        parts = self.attention(self.first_norm(h)).view(samples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        # Only the last place predicts, so only its attention is computed.
        # Written out, as vmap knows no batching rule for the fused function.
        scores = query[:, :, -1:] @ key.transpose(2, 3) / sqrt(key.shape[3])
        seen = scores.softmax(3) @ value
        last = h[:, -1] + self.mix(seen.reshape(samples, width))
        last = last + self.down(F.gelu(self.up(self.second_norm(last))))
        return self.out(self.last_norm(last))
