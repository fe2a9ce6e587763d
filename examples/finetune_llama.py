"""Fine-tunes a small Llama by forward passes only, all its weights or, with ``--lora``, adapters.

The model is first trained by backpropagation to count upwards in ones, which stands for the checkpoint that one
would load. The new task is to count in twos. No weights and no data are downloaded.

    python examples/finetune_llama.py --lora
"""

import argparse
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from zo_triton.integrations.transformers import ZOTrainer

NUMBERS, LENGTH = 16, 8


def counting(stride: int, examples: int = 256) -> list[dict[str, torch.Tensor]]:
    """Sequences that start anywhere and go on in steps of ``stride``."""
    rows = [
        (start + stride * torch.arange(LENGTH)) % NUMBERS for start in torch.randint(NUMBERS, (examples,))
    ]
    return [{"input_ids": row, "labels": row} for row in rows]


def accuracy(model: LlamaForCausalLM, stride: int) -> float:
    """How often the most likely next number is the right one, after the first two."""
    tokens = torch.stack([row["input_ids"] for row in counting(stride)])
    with torch.no_grad():
        guesses = model.eval()(input_ids=tokens).logits.argmax(-1)
    return (guesses[:, 1:-1] == tokens[:, 2:]).float().mean().item()


def main() -> None:
    """Trains, fine-tunes, and prints what became of both tasks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lora", action="store_true", help="train adapters of rank 4 in a frozen model")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    set_seed(0)
    config = LlamaConfig(
        vocab_size=NUMBERS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, pad_token_id=None, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    folder = tempfile.mkdtemp()
    usual = {
        "output_dir": folder,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    before = TrainingArguments(**usual, max_steps=150, learning_rate=1e-2, logging_steps=75)
    Trainer(model=model, args=before, train_dataset=counting(1)).train()
    print(f"before: counts in ones {accuracy(model, 1):.0%}, in twos {accuracy(model, 2):.0%}")

    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    args = TrainingArguments(
        **usual, max_steps=options.steps, learning_rate=3e-3 if options.lora else 2e-3,
        per_device_train_batch_size=32, logging_steps=max(1, options.steps // 6),
    )  # fmt: skip
    trainer = ZOTrainer(
        model=model, args=args, train_dataset=counting(2), directions=32, eps=1e-3, momentum=0.9
    )
    trainer.train()
    count = sum(param.numel() for param in model.parameters() if param.requires_grad)
    print(f"after moving {count} weights: counts in twos {accuracy(model, 2):.0%}")


if __name__ == "__main__":
    main()
