"""A GPT-2 small enough to train in a moment, its data, and arguments that keep a Trainer quiet."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

sys.path.insert(0, str(Path(__file__).parent))

VOCABULARY, LENGTH, EXAMPLES = 31, 7, 10


@pytest.fixture(autouse=True)
def calm(one_thread):
    """One thread for tiny tensors, and the random state that a Trainer seeds is put back."""
    with torch.random.fork_rng():
        yield


@pytest.fixture
def new_gpt2():
    """Makes the same model each time; without dropout unless it is asked for."""

    def make(dropout=0.0, **settings):
        torch.manual_seed(3)
        rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=0,
            eos_token_id=0, initializer_range=0.2, **rates, **settings,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        model.loss_type = (
            "ForCausalLM"  # transformers guesses it from the class's name, and not from this one
        )
        return model

    return make


@pytest.fixture
def examples():
    """Sequences of which the first labels do not count, fewer from one to the next."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (EXAMPLES, LENGTH), generator=generator)
    labels = tokens.clone()
    for index in range(EXAMPLES):
        labels[index, : index % 5] = -100
    return [
        {"input_ids": each, "labels": label, "attention_mask": torch.ones_like(each)}
        for each, label in zip(tokens, labels, strict=True)
    ]


@pytest.fixture
def arguments(tmp_path):
    """Arguments of a short run on the CPU; keywords replace them."""

    def make(**changes):
        settings = {
            "output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 1, "max_steps": 3, "per_device_train_batch_size": 4,
            "learning_rate": 0.01, "dataloader_pin_memory": False,
        }  # fmt: skip
        return TrainingArguments(**{**settings, **changes})

    return make
