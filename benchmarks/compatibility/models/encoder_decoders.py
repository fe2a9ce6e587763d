"""Encoder-decoders of transformers that read text."""

from __future__ import annotations

from typing import Any

from benchmarks.compatibility.model import integers
from benchmarks.compatibility.models.transformers_models import of_type

NEEDS = ("transformers",)

SOURCE, TARGET = integers(60, 2, 12, low=4), integers(60, 2, 7, low=4, seed=1)
BART: dict[str, Any] = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "decoder_start_token_id": 0,
}  # fmt: skip
FSMT: dict[str, Any] = {**BART, "langs": ["en", "de"], "src_vocab_size": 64, "tgt_vocab_size": 64}

SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": T5,
    "mt5": T5,
    "umt5": T5,
    "longt5": {**T5, "local_radius": 4},
    "switch_transformers": {
        **T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    },
    "bart": BART,
    "mbart": BART,
    "pegasus": BART,
    "pegasus_x": {**BART, "block_size": 8, "num_global_tokens": 4},
    "bigbird_pegasus": {**BART, "block_size": 4, "attention_type": "original_full"},
    "marian": BART,
    "m2m_100": BART,
    "nllb-moe": {
        **BART, "num_experts": 4, "encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 8,
    },
    "blenderbot": BART,
    "blenderbot-small": BART,
    "led": {
        **BART, "attention_window": 8, "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
    "mvp": BART,
    "plbart": BART,
    "fsmt": FSMT,
    "prophetnet": {
        "vocab_size": 64, "hidden_size": 32, "num_encoder_layers": 2, "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "decoder_start_token_id": 0,
    },
}  # fmt: skip

OTHER_INPUTS: dict[str, Any] = {"fsmt": {"decoder_input_ids": TARGET}}

MODELS = [
    of_type(
        model_type,
        "Seq2SeqLM",
        {"input_ids": SOURCE, "labels": TARGET, **OTHER_INPUTS.get(model_type, {})},
        **config,
    )
    for model_type, config in SEQ2SEQ.items()
]
