"""A short run that writes checkpoints and event files: run as a program it is killed in its middle.

python resumed_program.py OUTPUT LAST_STEP
"""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback, TrainingArguments

from zo_triton.integrations.transformers import ZOTrainer

STEPS, SAVE_EVERY = 6, 2


class KillAfter(TrainerCallback):
    """Ends the process as a power cut would, after a step and before what follows it."""

    def __init__(self, step):
        self.step = step

    def on_optimizer_step(self, args, state, control, **others):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def new_trainer(output, optimizer="zosgd", callbacks=()):
    """With dropout, momentum, a schedule, accumulation, and data drawn in random order over two epochs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=31, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.3, resid_pdrop=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(31, (14, 8))
    settings = {"directions": 8, "eps": 1e-3}
    if optimizer == "adamw":
        settings["optimizers"] = torch.optim.AdamW(model.parameters(), lr=0.01), None
    else:
        settings["momentum"] = 0.9
    if optimizer == "zosgd-bfloat16":
        model.bfloat16()
    args = TrainingArguments(
        output_dir=str(output), use_cpu=True, max_steps=STEPS, save_steps=SAVE_EVERY, logging_steps=1,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=0.01, warmup_steps=2,
        report_to="tensorboard", disable_tqdm=True, dataloader_pin_memory=False, seed=1,
    )  # fmt: skip
    data = [{"input_ids": each, "labels": each} for each in tokens]
    return ZOTrainer(model=model, args=args, train_dataset=data, callbacks=list(callbacks), **settings)


if __name__ == "__main__":
    new_trainer(Path(sys.argv[1]), callbacks=[KillAfter(int(sys.argv[2]))]).train()
