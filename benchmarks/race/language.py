"""A generated language that a small decoder is pre-trained on, and the question that it is fine-tuned to answer.

A text has a topic, and each topic its own habits: after a word comes one of :data:`BRANCHES` others, each topic
preferring others. Most pre-training texts end with the question "which topic?" and its name. Fine-tuning wants
another answer to it: two topics at a time share one name, so that three of four old answers are wrong.
"""

from __future__ import annotations

import numpy as np

from zo_triton.data import Dataset

WORDS, TOPICS, BRANCHES = 48, 4, 4
PREFERENCE = (0.6, 0.2, 0.15, 0.05)
"""With which the branches are taken."""

WHICH = WORDS
"""The token that asks for the topic's name."""

NAMES = WORDS + 1
"""The first topic's name; the others follow."""

VOCABULARY = 64
LENGTH = 16
"""Tokens of a text that ends with a question."""

ASKED = 0.75
"""Of the pre-training texts that end with question and name."""

SEED = 20260101
"""Of the habits: the language itself is always the same."""


def habits() -> np.ndarray:
    """[topics, words, branches] int64: which words a topic lets follow each word, the likeliest first."""
    generator = np.random.default_rng(SEED)
    follow = [[generator.permutation(WORDS)[:BRANCHES] for _ in range(WORDS)] for _ in range(TOPICS)]
    return np.array(follow)


def texts(count: int, length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Topics [count] int64, and texts [count, length] int64 of words alone."""
    follow = habits()
    topics = generator.integers(TOPICS, size=count)
    taken = generator.choice(BRANCHES, size=(count, length), p=PREFERENCE)
    found = np.empty((count, length), np.int64)
    found[:, 0] = generator.integers(WORDS, size=count)
    for place in range(1, length):
        found[:, place] = follow[topics, found[:, place - 1], taken[:, place]]
    return topics, found


def pretraining(count: int, generator: np.random.Generator) -> np.ndarray:
    """[count, LENGTH + 1] int64: texts, most of them with the question and the topic's name at their end."""
    topics, found = texts(count, LENGTH + 1, generator)
    asked = generator.random(count) < ASKED
    found[asked, LENGTH - 1] = WHICH
    found[asked, LENGTH] = NAMES + topics[asked]
    return found


def question(train: int, test: int, seed: int = 0) -> Dataset:
    """The fine-tuning task: the first half of the topics is called by the first name, the others by the second.

    Args:
        train: Texts to learn from.
        test: Others.
        seed: Of the texts.

    Returns:
        Inputs [n, LENGTH] float32, tokens; targets [n] int64, the token that answers.
    """
    topics, found = texts(train + test, LENGTH, np.random.default_rng(seed))
    found[:, -1] = WHICH
    x, y = found.astype(np.float32), NAMES + topics // (TOPICS // 2)
    name = f"{train} generated texts of {LENGTH} tokens"
    return Dataset(name, x[:train], y[:train], x[train:], y[train:])
