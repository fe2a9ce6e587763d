"""Adapters of PEFT on small models of transformers: only what the adapter trains is moved."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.compatibility.model import Loss, Model, called, integers
from benchmarks.compatibility.models.decoders import LLAMA, SIZES
from benchmarks.compatibility.models.encoders import BERT

NEEDS = ("transformers", "peft")

TOKENS = integers(60, 2, 9, low=4)
BASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("gpt2", "CausalLM", SIZES, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "llama": ("llama", "CausalLM", LLAMA, {"target_modules": ["q_proj", "v_proj"]}),
    "bert": ("bert", "SequenceClassification", BERT, {"target_modules": ["query", "value"]}),
}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}

ADAPTERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LoRA on gpt2": ("LoraConfig", "gpt2", LORA),
    "LoRA on llama": ("LoraConfig", "llama", LORA),
    "LoRA on bert": ("LoraConfig", "bert", LORA),
    "LoRA on all linear layers": ("LoraConfig", "llama", {**LORA, "target_modules": "all-linear"}),
    "LoRA on embeddings": ("LoraConfig", "llama", {**LORA, "target_modules": ["embed_tokens", "q_proj"]}),
    "LoRA with a trained head": ("LoraConfig", "llama", {**LORA, "modules_to_save": ["lm_head"]}),
    "DoRA on llama": ("LoraConfig", "llama", {**LORA, "use_dora": True}),
    "DoRA on gpt2": ("LoraConfig", "gpt2", {**LORA, "use_dora": True}),
    "rsLoRA on llama": ("LoraConfig", "llama", {**LORA, "use_rslora": True}),
    "PiSSA on llama": ("LoraConfig", "llama", {**LORA, "init_lora_weights": "pissa"}),
    "OLoRA on llama": ("LoraConfig", "llama", {**LORA, "init_lora_weights": "olora"}),
    "AdaLoRA on llama": ("AdaLoraConfig", "llama", {"init_r": 6, "target_r": 4, "total_step": 10}),
    "AdaLoRA on bert": ("AdaLoraConfig", "bert", {"init_r": 6, "target_r": 4, "total_step": 10}),
    "LoHa on llama": ("LoHaConfig", "llama", {"r": 4}),
    "LoKr on llama": ("LoKrConfig", "llama", {"r": 4}),
    "OFT on llama": ("OFTConfig", "llama", {"oft_block_size": 8}),
    "BOFT on llama": ("BOFTConfig", "llama", {"boft_block_size": 4}),
    "IA3 on llama": ("IA3Config", "llama", {"feedforward_modules": []}),
    "IA3 on gpt2": ("IA3Config", "gpt2", {"feedforward_modules": []}),
    "VeRA on llama": ("VeraConfig", "llama", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
    "VB-LoRA on llama": (
        "VBLoRAConfig", "llama",
        {"r": 4, "num_vectors": 8, "vector_length": 8, "topk": 2, "target_modules": ["q_proj", "o_proj"]},
    ),
    "FourierFT on llama": ("FourierFTConfig", "llama", {"n_frequency": 16}),
    "HRA on llama": ("HRAConfig", "llama", {"r": 4}),
    "LN-tuning on llama": ("LNTuningConfig", "llama", {"target_modules": ["input_layernorm", "norm"]}),
    "RandLoRA on llama": ("RandLoraConfig", "llama", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
    "MiSS on llama": ("MissConfig", "llama", {"r": 4}),
    "SHiRA on llama": ("ShiraConfig", "llama", {"r": 4}),
    "C3A on llama": ("C3AConfig", "llama", {"block_size": 8}),
    "WaveFT on llama": ("WaveFTConfig", "llama", {"n_frequency": 16}),
    "prompt tuning on gpt2": ("PromptTuningConfig", "gpt2", {"num_virtual_tokens": 4}),
    "prompt tuning on llama": ("PromptTuningConfig", "llama", {"num_virtual_tokens": 4}),
    "p-tuning on llama": (
        "PromptEncoderConfig", "llama", {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    ),
    "p-tuning with an LSTM on gpt2": (
        "PromptEncoderConfig", "gpt2",
        {"num_virtual_tokens": 4, "encoder_hidden_size": 16, "encoder_reparameterization_type": "LSTM"},
    ),
    "prefix tuning on gpt2": ("PrefixTuningConfig", "gpt2", {"num_virtual_tokens": 4}),
    "prefix tuning on llama": ("PrefixTuningConfig", "llama", {"num_virtual_tokens": 4}),
    "prefix tuning with a projection on gpt2": (
        "PrefixTuningConfig", "gpt2",
        {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "adaption prompt on llama": ("AdaptionPromptConfig", "llama", {"adapter_len": 4, "adapter_layers": 1}),
    "trainable tokens on llama": (
        "TrainableTokensConfig", "llama",
        {"token_indices": [10, 20, 30, 40, 50], "target_modules": ["embed_tokens"]},
    ),
    "CPT on llama": (
        "CPTConfig", "llama",
        {"cpt_token_ids": [5, 6], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    ),
}  # fmt: skip
WITHOUT_TARGETS = (
    "PromptTuningConfig",
    "PromptEncoderConfig",
    "PrefixTuningConfig",
    "AdaptionPromptConfig",
    "CPTConfig",
)


def _adapted(name: str, class_name: str, base: str, options: dict[str, Any]) -> Model:
    def build() -> tuple[nn.Module, Loss]:
        import peft
        import transformers

        model_type, head, sizes, targets = BASES[base]
        automatic = getattr(transformers, f"AutoModelFor{head}")
        module = automatic.from_config(transformers.AutoConfig.for_model(model_type, **sizes))
        made = getattr(peft, class_name)
        known = made.__dataclass_fields__
        settings = {
            key: value for key, value in targets.items() if key in known and class_name not in WITHOUT_TARGETS
        }
        task = "SEQ_CLS" if head == "SequenceClassification" else "CAUSAL_LM"
        adapted = peft.get_peft_model(module, made(task_type=task, **{**settings, **options}))
        inputs = {"input_ids": TOKENS, "labels": integers(2, 2) if task == "SEQ_CLS" else TOKENS}
        return adapted, lambda module: called(module, inputs).loss

    return Model(f"PEFT {name}", build)


MODELS = [_adapted(name, *adapter) for name, adapter in ADAPTERS.items()]
