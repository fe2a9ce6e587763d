"""Trains a small BERT from nothing, by forward passes only, to tell whether a text says more good than bad.

Texts are generated: neutral words, and some that are good or bad. The optimizer is Adam, which gets the
zeroth-order estimate as its gradient; everything around the step, the evaluation for instance, is Trainer's.

    python examples/classify_bert.py
"""

import argparse
import tempfile

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments, set_seed

from zo_triton.integrations.transformers import ZOTrainer

WORDS, LENGTH = 40, 12
GOOD, BAD = range(0, 10), range(10, 20)


def texts(examples: int) -> list[dict[str, torch.Tensor]]:
    """Texts of random words, of which a label says whether more are good than bad; none is balanced."""
    rows = torch.randint(WORDS, (4 * examples, LENGTH))
    balance = (rows < GOOD.stop).sum(1) - ((rows >= BAD.start) & (rows < BAD.stop)).sum(1)
    rows, balance = rows[balance != 0][:examples], balance[balance != 0][:examples]
    return [
        {"input_ids": row, "labels": label} for row, label in zip(rows, (balance > 0).long(), strict=True)
    ]


def accuracy(predictions) -> dict[str, float]:
    """Trainer's ``compute_metrics``."""
    logits, labels = predictions
    return {"accuracy": float(np.mean(logits.argmax(-1) == labels))}


def main() -> None:
    """Trains, and prints losses and accuracies on the way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    set_seed(0)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    every = max(1, options.steps // 5)
    args = TrainingArguments(
        output_dir=tempfile.mkdtemp(), report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        max_steps=options.steps, per_device_train_batch_size=64, logging_steps=every, eval_strategy="steps",
        eval_steps=every, learning_rate=1.5e-2,
    )  # fmt: skip
    trainer = ZOTrainer(
        model=model, args=args, train_dataset=texts(2000), eval_dataset=texts(500), compute_metrics=accuracy,
        directions=32, eps=1e-3, optimizers=(torch.optim.Adam(model.parameters(), lr=1.5e-2), None),
    )  # fmt: skip
    print(f"before: accuracy {trainer.evaluate()['eval_accuracy']:.0%}")
    trainer.train()
    print(f"after {options.steps} steps: accuracy {trainer.evaluate()['eval_accuracy']:.0%}")


if __name__ == "__main__":
    main()
