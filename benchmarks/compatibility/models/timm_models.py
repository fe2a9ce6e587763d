"""Models of timm, made small where they let themselves be."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compatibility.model import Loss, Model, called, integers, numbers

NEEDS = ("timm",)

CLASSES = integers(10, 8)
STAGES: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
CHANNELS: dict[str, Any] = {"channels": (8, 16, 24, 32)}
ONE_EACH: dict[str, Any] = {"layers": (1, 1, 1, 1), **CHANNELS}
VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32, "patch_size": 8}
SWIN: dict[str, Any] = {
    "img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (1, 1),
    "num_heads": (2, 4),
}  # fmt: skip
LARGE: dict[str, Any] = {"img_size": 64}

SMALL_IMAGES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": VIT,
    "deit_tiny_distilled_patch16_224": VIT,
    "deit3_small_patch16_224": VIT,
    "eva02_tiny_patch14_224": VIT,
    "beit_base_patch16_224": VIT,
    "cait_xxs24_224": VIT,
    "xcit_nano_12_p16_224": VIT,
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "gmlp_ti16_224": {"img_size": 32},
    "tnt_s_patch16_224": {
        "img_size": 32,
        "embed_dim": 32,
        "inner_dim": 8,
        "depth": 2,
        "num_heads_outer": 4,
        "num_heads_inner": 2,
    },
}
"""Two of 32 by 32, for networks without batch norm."""

LARGE_IMAGES: dict[str, dict[str, Any]] = {
    "convnext_tiny": STAGES,
    "convnextv2_tiny": STAGES,
    "resnet18": {**CHANNELS, "stem_width": 8},
    "resnext50_32x4d": {**ONE_EACH, "cardinality": 4, "base_width": 16},
    "seresnet18": CHANNELS,
    "skresnet18": CHANNELS,
    "res2net50_26w_4s": ONE_EACH,
    "resnest14d": CHANNELS,
    "ecaresnet50t": ONE_EACH,
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)},
    "regnetx_002": {},
    "regnety_002": {},
    "efficientnet_lite0": {},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "mnasnet_small": {},
    "tinynet_e": {},
    "ghostnet_050": {},
    "lcnet_035": {},
    "densenet121": {"growth_rate": 4, "block_config": (1, 1, 1, 1)},
    "dla34": {"channels": (8, 8, 16, 16, 24, 24)},
    "repvgg_a0": {},
    "levit_128s": LARGE,
    "efficientvit_b0": {},
    "mobilevit_xxs": {},
    "edgenext_xx_small": {},
    "pit_ti_224": LARGE,
    "twins_svt_small": {
        **LARGE,
        "embed_dims": (16, 24, 32, 48),
        "num_heads": (2, 2, 4, 4),
        "depths": (1, 1, 1, 1),
    },
    "pvt_v2_b0": {},
    "coatnet_pico_rw_224": LARGE,
    "maxvit_rmlp_pico_rw_256": LARGE,
    "davit_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (2, 2, 2, 4)},
    "hiera_tiny_224": {**LARGE, "embed_dim": 16, "stages": (1, 1, 1, 1)},
    "starnet_s1": {},
    "repghostnet_050": {},
    "inception_next_atto": {},
    "hrnet_w18_small": {},
    "dpn48b": {},
    "fbnetc_100": {},
    "mixnet_s": {},
    "poolformer_s12": {},
}
"""Eight of 64 by 64: batch norm over fewer numbers is so steep that float32's own loss is not float64's."""


def _timm(name: str, images: Tensor, options: dict[str, Any]) -> Model:
    def build() -> tuple[nn.Module, Loss]:
        import timm

        def loss(module: nn.Module) -> Any:
            return F.cross_entropy(called(module, {"x": images}), CLASSES[: len(images)])

        return timm.create_model(name, pretrained=False, num_classes=10, **options), loss

    return Model(f"timm {name}", build)


MODELS = [
    *(_timm(name, numbers(2, 3, 32, 32), options) for name, options in SMALL_IMAGES.items()),
    *(_timm(name, numbers(8, 3, 64, 64), options) for name, options in LARGE_IMAGES.items()),
]
