"""Encoders of text of transformers, with the head that they are fine-tuned with."""

from __future__ import annotations

from typing import Any

from benchmarks.compatibility.model import Model, integers, numbers
from benchmarks.compatibility.models.decoders import LLAMA, SIZES
from benchmarks.compatibility.models.transformers_models import of_class, of_type

NEEDS = ("transformers",)

TOKENS = integers(60, 2, 12, low=4)
LONG = integers(60, 2, 32, low=4)
CLASSES = integers(2, 2)
BERT: dict[str, Any] = {**SIZES, "intermediate_size": 48, "max_position_embeddings": 64, "type_vocab_size": 2}
ALBERT: dict[str, Any] = {**BERT, "embedding_size": 16}
DEBERTA: dict[str, Any] = {
    **BERT,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "pooler_hidden_size": 32,
}
BOXES = integers(500, 2, 12, 4).sort(-1).values
UTF = integers(1000, 2, 32, low=1)

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "roberta-prelayernorm": BERT,
    "camembert": BERT,
    "distilbert": {**SIZES, "dim": 32, "hidden_dim": 48},
    "albert": ALBERT,
    "electra": ALBERT,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA,
    "mpnet": BERT,
    "longformer": {**BERT, "attention_window": 8},
    "big_bird": {**BERT, "block_size": 4, "num_random_blocks": 1},
    "fnet": BERT,
    "funnel": {
        "vocab_size": 64, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48,
    },
    "nystromformer": {**BERT, "num_landmarks": 8, "segment_means_seq_len": 32, "conv_kernel_size": 5},
    "reformer": {
        "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16,
        "feed_forward_size": 48, "attn_layers": ["local", "lsh"], "axial_pos_shape": [4, 8],
        "axial_pos_embds_dim": [16, 16], "max_position_embeddings": 32, "num_buckets": 4,
        "lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8, "is_decoder": False, "hash_seed": 0,
    },
    "xlnet": {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "convbert": {**ALBERT, "conv_kernel_size": 3},
    "squeezebert": {**BERT, "q_groups": 2, "k_groups": 2, "v_groups": 2, "embedding_size": 32},
    "modernbert": {**LLAMA, "cls_token_id": 1, "sep_token_id": 2},
    "layoutlm": BERT,
    "canine": {
        **BERT, "local_transformer_stride": 8, "num_hash_buckets": 32, "downsampling_rate": 2,
        "max_position_embeddings": 64,
    },
    "rembert": {**BERT, "input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {**BERT, "embedding_size": 32},
    "megatron-bert": BERT,
    "ernie": BERT,
    "mobilebert": {**BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "xlm": {"vocab_size": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "flaubert": {"vocab_size": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "ibert": BERT,
    "yoso": {**BERT, "num_hash": 4},
    "mra": BERT,
    "data2vec-text": BERT,
    "esm": {**BERT, "mask_token_id": 3, "position_embedding_type": "rotary"},
    "luke": {**BERT, "entity_vocab_size": 8},
    "xmod": {**BERT, "languages": ["en_XX"], "default_language": "en_XX", "adapter_reduction_factor": 2},
    "nomic_bert": BERT,
    "eurobert": LLAMA,
}  # fmt: skip
OTHER_INPUTS: dict[str, dict[str, Any]] = {
    "big_bird": {"input_ids": integers(60, 2, 64, low=4)},
    "longformer": {"input_ids": LONG},
    "nystromformer": {"input_ids": LONG},
    "reformer": {"input_ids": LONG},
    "layoutlm": {"input_ids": TOKENS, "bbox": BOXES},
    "canine": {"input_ids": UTF},
    "mra": {"input_ids": integers(60, 2, 64, low=4)},
}
OTHER_HEADS: dict[str, Any] = {"luke": "MaskedLM", "nomic_bert": "MaskedLM"}


def _classifier(model_type: str, config: dict[str, Any]) -> Model:
    inputs = OTHER_INPUTS.get(model_type, {"input_ids": TOKENS})
    head = OTHER_HEADS.get(model_type, "SequenceClassification")
    labels = CLASSES if head == "SequenceClassification" else inputs["input_ids"]
    return of_type(model_type, head, {**inputs, "labels": labels}, **config)


MODELS = [
    *(_classifier(model_type, config) for model_type, config in CLASSIFIERS.items()),
    of_type("bert", "MaskedLM", {"input_ids": TOKENS, "labels": TOKENS}, name="bert, masked tokens", **BERT),
    of_type(
        "deberta-v2", "MaskedLM", {"input_ids": TOKENS, "labels": TOKENS},
        name="deberta-v2, masked tokens", **DEBERTA,
    ),
    of_type(
        "bert", "QuestionAnswering", {
            "input_ids": TOKENS, "start_positions": CLASSES, "end_positions": CLASSES,
        },
        name="bert, question answering", **BERT,
    ),
    of_type(
        "roberta", "TokenClassification", {"input_ids": TOKENS, "labels": integers(2, 2, 12)},
        name="roberta, token classification", **BERT,
    ),
    of_type(
        "bert", "MultipleChoice", {"input_ids": TOKENS[None], "labels": integers(1, 1)},
        name="bert, multiple choice", **BERT,
    ),
    of_type("dpr", "", {"input_ids": TOKENS}, **BERT),
    of_type(
        "splinter", "QuestionAnswering",
        {"input_ids": TOKENS, "start_positions": CLASSES, "end_positions": CLASSES}, **BERT,
    ),
    of_type(
        "tapas", "", {"input_ids": TOKENS, "token_type_ids": integers(2, 2, 12, 7)},
        **{**BERT, "type_vocab_sizes": [3, 8, 8, 8, 8, 8, 8]},
    ),
    of_type(
        "lilt", "SequenceClassification", {"input_ids": TOKENS, "bbox": BOXES, "labels": CLASSES},
        **{**BERT, "hidden_size": 48, "channel_shrink_ratio": 2},
    ),
    of_type("bros", "", {"input_ids": TOKENS, "bbox": numbers(2, 12, 4)}, **{**BERT, "dim_bbox": 4}),
    of_class(
        "PerceiverForMaskedLM", {"inputs": TOKENS, "attention_mask": integers(2, 2, 12, low=1), "labels": TOKENS},
        name="perceiver",
        vocab_size=64, d_model=32, d_latents=32, num_latents=8, num_blocks=1, num_self_attends_per_block=2,
        num_self_attention_heads=4, num_cross_attention_heads=4, max_position_embeddings=12,
        qk_channels=32, v_channels=32,
    ),
]  # fmt: skip
