"""Models of sound and of time series of transformers."""

from __future__ import annotations

from typing import Any

from benchmarks.compatibility.model import integers, numbers
from benchmarks.compatibility.models.encoder_decoders import BART
from benchmarks.compatibility.models.transformers_models import of_class, of_type

NEEDS = ("transformers",)

WAVES = numbers(2, 1200)
CLASSES = integers(2, 2)
CHARACTERS = integers(12, 2, 4, low=1)
WAV2VEC: dict[str, Any] = {
    "vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": [16, 16, 16], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 4],
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2, "pad_token_id": 0,
    "classifier_proj_size": 16,
}  # fmt: skip
SQUEEZED: dict[str, Any] = {**WAV2VEC, "squeeze_factor": 2}

CTC: dict[str, dict[str, Any]] = {
    "wav2vec2": WAV2VEC,
    "hubert": WAV2VEC,
    "wavlm": WAV2VEC,
    "unispeech": WAV2VEC,
    "unispeech-sat": WAV2VEC,
    "data2vec-audio": WAV2VEC,
    "wav2vec2-conformer": {**WAV2VEC, "conv_depthwise_kernel_size": 5},
    "sew": SQUEEZED,
    "sew-d": {**SQUEEZED, "max_position_embeddings": 64, "position_buckets": 16},
}
SERIES: dict[str, Any] = {"past_values": numbers(2, 32, 3), "future_values": numbers(2, 8, 3)}

MODELS = [
    *(
        of_type(model_type, "CTC", {"input_values": WAVES, "labels": CHARACTERS}, **config)
        for model_type, config in CTC.items()
    ),
    of_type(
        "wav2vec2", "AudioClassification", {"input_values": WAVES, "labels": CLASSES},
        name="wav2vec2, classification", **WAV2VEC,
    ),
    of_type(
        "wav2vec2-bert", "CTC", {"input_features": numbers(2, 20, 16), "labels": CHARACTERS},
        **{**WAV2VEC, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 5},
    ),
    of_type(
        "audio-spectrogram-transformer", "AudioClassification",
        {"input_values": numbers(2, 32, 16), "labels": CLASSES}, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=48, patch_size=8, frequency_stride=8, time_stride=8,
        max_length=32, num_mel_bins=16,
    ),
    of_type(
        "whisper", "SpeechSeq2Seq", {
            "input_features": numbers(2, 16, 20), "labels": integers(60, 2, 7, low=4),
        },
        num_mel_bins=16, max_source_positions=10, max_target_positions=16, **BART,
    ),
    of_type(
        "speech_to_text", "SpeechSeq2Seq", {
            "input_features": numbers(2, 20, 16), "labels": integers(60, 2, 7, low=4),
        },
        input_feat_per_channel=16, max_source_positions=32, max_target_positions=16, conv_channels=16, **BART,
    ),
    of_class(
        "PatchTSTForPrediction", SERIES, name="patchtst", num_input_channels=3, context_length=32,
        prediction_length=8, patch_length=4, patch_stride=4, d_model=16, num_attention_heads=2, ffn_dim=32,
        num_hidden_layers=2,
    ),
    of_class(
        "PatchTSMixerForPrediction", SERIES, name="patchtsmixer", num_input_channels=3, context_length=32,
        prediction_length=8, patch_length=4, patch_stride=4, d_model=16, num_layers=2,
    ),
    of_class(
        "TimeSeriesTransformerForPrediction",
        {
            "past_values": numbers(2, 24), "past_time_features": numbers(2, 24, 2),
            "past_observed_mask": integers(2, 2, 24, low=1), "future_values": numbers(2, 8),
            "future_time_features": numbers(2, 8, 2),
        },
        name="time_series_transformer", prediction_length=8, context_length=16, lags_sequence=[1, 8],
        num_time_features=2, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    ),
    of_class(
        "AutoformerForPrediction",
        {
            "past_values": numbers(2, 24), "past_time_features": numbers(2, 24, 2),
            "past_observed_mask": integers(2, 2, 24, low=1), "future_values": numbers(2, 8),
            "future_time_features": numbers(2, 8, 2),
        },
        name="autoformer", prediction_length=8, context_length=16, lags_sequence=[1, 8],
        num_time_features=2, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    ),
    of_class(
        "InformerForPrediction",
        {
            "past_values": numbers(2, 24), "past_time_features": numbers(2, 24, 2),
            "past_observed_mask": integers(2, 2, 24, low=1), "future_values": numbers(2, 8),
            "future_time_features": numbers(2, 8, 2),
        },
        name="informer", prediction_length=8, context_length=16, lags_sequence=[1, 8], num_time_features=2,
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
    ),
    of_class(
        "DecisionTransformerModel",
        {
            "states": numbers(2, 5, 4), "actions": numbers(2, 5, 2), "rewards": numbers(2, 5, 1),
            "returns_to_go": numbers(2, 5, 1), "timesteps": integers(8, 2, 5),
            "attention_mask": integers(2, 2, 5, low=1),
        },
        name="decision_transformer", state_dim=4, act_dim=2, hidden_size=32, max_ep_len=16, n_layer=2,
        n_head=4, n_positions=32, vocab_size=1,
    ),
]  # fmt: skip
