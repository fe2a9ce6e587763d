"""Models of timm, made small where they let themselves be."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from benchmarks.compatibility.model import Loss, Model, called, integers, numbers

NEEDS = ("timm",)

CLASSES = integers(10, 2)
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 32}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (1, 1),
    "num_heads": (2, 4),
}

TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (32, {**VIT, "patch_size": 8}),
    "deit_tiny_distilled_patch16_224": (32, {**VIT, "patch_size": 8}),
    "deit3_small_patch16_224": (32, {**VIT, "patch_size": 8}),
    "eva02_tiny_patch14_224": (32, {**VIT, "patch_size": 8}),
    "beit_base_patch16_224": (32, {**VIT, "patch_size": 8}),
    "cait_xxs24_224": (32, {**VIT, "patch_size": 8}),
    "xcit_nano_12_p16_224": (32, {**VIT, "patch_size": 8}),
    "swin_tiny_patch4_window7_224": (32, SWIN),
    "swinv2_tiny_window8_256": (32, SWIN),
    "convnext_tiny": (64, STAGES),
    "convnextv2_tiny": (64, STAGES),
    "resnet18": (32, {"channels": (8, 16, 24, 32), "stem_width": 8}),
    "resnext50_32x4d": (32, {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "cardinality": 4}),
    "seresnet18": (32, {"channels": (8, 16, 24, 32)}),
    "res2net50_26w_4s": (32, {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}),
    "resnest14d": (32, {"channels": (8, 16, 24, 32)}),
    "ecaresnet50t": (32, {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}),
    "resnetv2_50": (32, {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, 64)}),
    "regnetx_002": (32, {}),
    "regnety_002": (32, {}),
    "efficientnet_lite0": (32, {}),
    "efficientnetv2_rw_t": (32, {}),
    "mobilenetv2_035": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "mobilenetv4_conv_small_035": (32, {}),
    "mnasnet_small": (32, {}),
    "tinynet_e": (32, {}),
    "ghostnet_050": (32, {}),
    "lcnet_035": (32, {}),
    "hardcorenas_a": (32, {}),
    "fbnetc_100": (32, {}),
    "mixnet_s": (32, {}),
    "densenet121": (32, {"growth_rate": 4, "block_config": (1, 1, 1, 1)}),
    "dla34": (32, {"channels": (8, 8, 16, 16, 24, 24)}),
    "vgg11": (32, {"cfg": (8, "M", 16, "M", 24, "M", 32, "M", 32, "M"), "num_features": 64}),
    "repvgg_a0": (32, {}),
    "mobileone_s0": (32, {}),
    "fastvit_t8": (64, {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32)}),
    "mixer_s16_224": (32, {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}),
    "resmlp_12_224": (32, {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}),
    "gmlp_ti16_224": (32, {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}),
    "poolformer_s12": (64, STAGES),
    "convformer_s18": (64, STAGES),
    "caformer_s18": (64, STAGES),
    "coatnet_nano_rw_224": (32, {"img_size": 32}),
    "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "levit_128s": (64, {"img_size": 64}),
    "efficientformer_l1": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "edgenext_xx_small": (64, {}),
    "pit_ti_224": (32, {"img_size": 32}),
    "tnt_s_patch16_224": (32, {"img_size": 32, "embed_dim": 32, "inner_dim": 8, "depth": 2, "num_heads_outer": 4, "num_heads_inner": 2}),
    "twins_svt_small": (64, {"img_size": 64}),
    "pvt_v2_b0": (64, {}),
    "focalnet_tiny_srf": (32, {"embed_dim": 16, "depths": (1, 1, 1, 1)}),
    "nest_tiny": (32, {"img_size": 32, "embed_dims": (8, 16, 32), "num_heads": (2, 2, 4), "depths": (1, 1, 1)}),
    "crossvit_tiny_240": (64, {"img_size": 64}),
    "volo_d1_224": (64, {"img_size": 64}),
    "visformer_tiny": (64, {"img_size": 64}),
    "gcvit_xxtiny": (64, {"img_size": 64}),
    "davit_tiny": (64, {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (2, 2, 2, 4)}),
    "hrnet_w18_small": (64, {}),
    "selecsls42": (64, {}),
    "inception_v4": (96, {}),
    "xception41": (64, {}),
    "dpn48b": (32, {}),
    "skresnet18": (32, {"channels": (8, 16, 24, 32)}),
    "bat_resnext26ts": (64, {}),
    "halonet26t": (64, {}),
    "lambda_resnet26t": (64, {"img_size": 64}),
    "starnet_s1": (64, {}),
    "hiera_tiny_224": (64, {"img_size": 64}),
    "rdnet_tiny": (64, {}),
    "repghostnet_050": (32, {}),
    "inception_next_atto": (64, {}),
    "tiny_vit_5m_224": (64, {"img_size": 64}),
    "sequencer2d_s": (64, {"img_size": 64}),
}  # fmt: skip


def _timm(name: str, size: int, options: dict[str, Any]) -> Model:
    def build() -> tuple[nn.Module, Loss]:
        import timm

        inputs = {"x": numbers(2, 3, size, size)}

        def loss(module: nn.Module) -> Any:
            return F.cross_entropy(called(module, inputs), CLASSES)

        return timm.create_model(name, pretrained=False, num_classes=10, **options), loss

    return Model(f"timm {name}", build)


MODELS = [_timm(name, size, options) for name, (size, options) in TIMM.items()]
