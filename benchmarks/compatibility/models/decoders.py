"""Language models of transformers that predict the next token."""

from __future__ import annotations

from typing import Any

from benchmarks.compatibility.model import integers
from benchmarks.compatibility.models.transformers_models import of_type

NEEDS = ("transformers",)

TOKENS = integers(60, 2, 9, low=4)
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA: dict[str, Any] = {"state_size": 8, "conv_kernel": 4, "expand": 2}

DEEPSEEK: dict[str, Any] = {
    **LLAMA, **EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "num_key_value_heads": 4, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1,
}  # fmt: skip

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": SIZES,
    "openai-gpt": SIZES,
    "gpt_neo": {**SIZES, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": {**SIZES, "rotary_dim": 4},
    "gpt_neox": LLAMA,
    "gpt_bigcode": SIZES,
    "ctrl": {**SIZES, "dff": 48},
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": {**LLAMA, **LOCAL_EXPERTS},
    "qwen2": LLAMA,
    "qwen2_moe": {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 24},
    "qwen3": {**LLAMA, "head_dim": 8},
    "qwen3_moe": {**LLAMA, **EXPERTS, "head_dim": 8},
    "gemma": {**LLAMA, "head_dim": 8},
    "gemma2": {**LLAMA, "head_dim": 8},
    "gemma3_text": {**LLAMA, "head_dim": 8},
    "phi": LLAMA,
    "phi3": LLAMA,
    "phimoe": {**LLAMA, **LOCAL_EXPERTS},
    "falcon": SIZES,
    "bloom": SIZES,
    "stablelm": LLAMA,
    "olmo": LLAMA,
    "olmo2": LLAMA,
    "olmo3": LLAMA,
    "olmoe": {**LLAMA, **EXPERTS},
    "cohere": LLAMA,
    "cohere2": LLAMA,
    "starcoder2": LLAMA,
    "mpt": SIZES,
    "codegen": {**SIZES, "rotary_dim": 4},
    "persimmon": LLAMA,
    "granite": LLAMA,
    "granitemoe": {**LLAMA, **LOCAL_EXPERTS},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": {**DEEPSEEK, "n_group": 2, "topk_group": 1},
    "mamba": {**SIZES, **MAMBA},
    "mamba2": {**SIZES, **MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "falcon_mamba": {**SIZES, **MAMBA},
    "jamba": {
        **LLAMA, **LOCAL_EXPERTS, "num_experts": 4, "num_hidden_layers": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "rwkv": {**SIZES, "context_length": 32},
    "recurrent_gemma": {**LLAMA, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 8},
    "glm": {**LLAMA, "head_dim": 8},
    "glm4": {**LLAMA, "head_dim": 8},
    "nemotron": LLAMA,
    "gpt_oss": {**LLAMA, **LOCAL_EXPERTS, "head_dim": 8},
    "smollm3": LLAMA,
    "helium": {**LLAMA, "head_dim": 8},
    "diffllama": LLAMA,
    "llama4_text": {**LLAMA, **LOCAL_EXPERTS, "head_dim": 8, "intermediate_size_mlp": 48},
    "exaone4": LLAMA,
    "ernie4_5": LLAMA,
    "bitnet": LLAMA,
    "biogpt": {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64},
    "xglm": {
        **SIZES, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48, "d_model": 32,
        "max_position_embeddings": 64,
    },
    "dbrx": {
        **SIZES, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "jetmoe": {**LLAMA, **LOCAL_EXPERTS, "kv_channels": 8, "num_key_value_heads": 2},
    "zamba": {
        **LLAMA, "num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2,
        "mamba_d_state": 8, "mamba_dt_rank": 4, "n_mamba_heads": 2, "use_mamba_kernels": False,
    },
    "bamba": {
        **LLAMA, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "lfm2": {**LLAMA, "full_attn_idxs": [1]},
    "qwen3_next": {
        **LLAMA, **EXPERTS, "head_dim": 8, "shared_expert_intermediate_size": 24,
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
    },
    "modernbert-decoder": {**LLAMA, "cls_token_id": 1, "sep_token_id": 2},
    "doge": LLAMA,
    "nanochat": LLAMA,
    "seed_oss": {**LLAMA, "head_dim": 8},
    "apertus": LLAMA,
    "arcee": LLAMA,
    "moshi": {**LLAMA, "audio_vocab_size": 64},
}  # fmt: skip

MODELS = [
    of_type(model_type, "CausalLM", {"input_ids": TOKENS, "labels": TOKENS}, **config)
    for model_type, config in DECODERS.items()
]
