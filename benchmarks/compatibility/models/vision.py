"""Models of images and of images with text, of transformers."""

from __future__ import annotations

from typing import Any

from benchmarks.compatibility.model import integers, numbers
from benchmarks.compatibility.models.transformers_models import of_class, of_type

NEEDS = ("transformers",)

IMAGES, LARGE = numbers(2, 3, 32, 32), numbers(2, 3, 64, 64)
CLASSES = integers(2, 2)
TOKENS = integers(60, 2, 10, low=4)
VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "vocab_size": 64, "max_position_embeddings": 32, "projection_dim": 16, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": {**VIT, "architectures": ["DeiTForImageClassification"]},
    "beit": {**VIT, "use_relative_position_bias": True},
    "data2vec-vision": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "ijepa": VIT,
    "swin": SWIN,
    "swinv2": SWIN,
    "convnext": {**CONVNEXT, "patch_size": 4},
    "convnextv2": {**CONVNEXT, "patch_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "regnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "bit": {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4},
    "segformer": {
        "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
        "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
    },
    "mobilevit": {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 32],
        "num_attention_heads": 4, "expand_ratio": 2.0,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 32},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 32},
    "efficientnet": {
        "image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320,
    },
    "poolformer": {"hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "pvt": {
        "image_size": 64, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4], "sequence_reduction_ratios": [4, 2, 1, 1],
    },
    "pvt_v2": {
        "image_size": 64, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4], "sr_ratios": [4, 2, 1, 1],
    },
    "cvt": {"embed_dim": [16, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "focalnet": {
        "image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
        "focal_windows": [3, 3], "hidden_sizes": [16, 32],
    },
    "levit": {
        "architectures": ["LevitForImageClassification"], "image_size": 64, "hidden_sizes": [16, 32, 32],
        "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8],
    },
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [16, 16, 32, 32]},
    "hiera": {
        "image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4],
        "patch_size": [7, 7], "masked_unit_size": [4, 4], "num_query_pool": 2,
    },
    "vit_msn": VIT,
    "imagegpt": {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
}  # fmt: skip
OTHER_INPUTS: dict[str, Any] = {
    name: {"pixel_values": LARGE}
    for name in (
        "mobilevit", "mobilevitv2", "pvt", "pvt_v2", "levit", "swiftformer", "hiera", "poolformer", "cvt",
    )
} | {"imagegpt": {"input_ids": TOKENS}}  # fmt: skip
VIDEO: dict[str, Any] = {**VIT, "num_frames": 4, "tubelet_size": 2}
DUAL: dict[str, Any] = {"vision_config": {**VIT, "projection_dim": 16}, "text_config": TEXT}

MODELS = [
    *(
        of_type(
            model_type, "ImageClassification",
            {**OTHER_INPUTS.get(model_type, {"pixel_values": IMAGES}), "labels": CLASSES}, **config,
        )
        for model_type, config in CLASSIFIERS.items()
    ),
    of_class(
        "CLIPModel", {"input_ids": TOKENS, "pixel_values": IMAGES, "return_loss": True}, projection_dim=16,
        name="clip", **DUAL,
    ),
    of_class(
        "SiglipModel", {"input_ids": TOKENS, "pixel_values": IMAGES, "return_loss": True}, name="siglip",
        **DUAL,
    ),
    of_class(
        "BlipForConditionalGeneration", {"input_ids": TOKENS, "pixel_values": IMAGES, "labels": TOKENS},
        name="blip", vision_config=VIT, text_config={**TEXT, "encoder_hidden_size": 32},
    ),
    of_type(
        "videomae", "VideoClassification",
        {"pixel_values": numbers(1, 4, 3, 32, 32), "labels": CLASSES[:1]}, decoder_hidden_size=16, **VIDEO,
    ),
    of_type(
        "timesformer", "VideoClassification",
        {"pixel_values": numbers(1, 4, 3, 32, 32), "labels": CLASSES[:1]}, **VIT, num_frames=4,
    ),
    of_type(
        "vivit", "VideoClassification", {"pixel_values": numbers(1, 4, 3, 32, 32), "labels": CLASSES[:1]},
        **{**VIDEO, "tubelet_size": [2, 8, 8]},
    ),
    of_class(
        "ViTMAEForPreTraining", {"pixel_values": IMAGES, "noise": numbers(2, 16)}, name="vit_mae",
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, **VIT,
    ),
    of_type(
        "segformer", "SemanticSegmentation", {"pixel_values": IMAGES, "labels": integers(2, 2, 32, 32)},
        name="segformer, segmentation", decoder_hidden_size=16, num_labels=2, **CLASSIFIERS["segformer"],
    ),
    of_type(
        "dpt", "", {"pixel_values": IMAGES},
        **{
            **VIT, "is_hybrid": False, "neck_hidden_sizes": [8, 8, 8, 8],
            "backbone_out_indices": [0, 0, 1, 1],
        },
    ),
    of_type("glpn", "", {"pixel_values": IMAGES}, **CLASSIFIERS["segformer"]),
    of_type(
        "yolos", "", {"pixel_values": IMAGES},
        **{**VIT, "image_size": [32, 32], "num_detection_tokens": 4},
    ),
    of_type(
        "swin2sr", "ImageToImage", {"pixel_values": IMAGES}, image_size=32, patch_size=1, embed_dim=16,
        depths=[1], num_heads=[2], window_size=4,
    ),
    of_type(
        "vilt", "", {"input_ids": TOKENS, "pixel_values": IMAGES},
        **{**TEXT, **VIT, "max_position_embeddings": 32},
    ),
    of_class(
        "VisionEncoderDecoderModel", {"pixel_values": IMAGES, "labels": TOKENS},
        name="vision encoder-decoder", encoder={**VIT, "model_type": "vit"},
        decoder={
            "model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4,
            "bos_token_id": 1, "eos_token_id": 2, "add_cross_attention": True, "is_decoder": True,
        },
        decoder_start_token_id=1, pad_token_id=0,
    ),
]  # fmt: skip
