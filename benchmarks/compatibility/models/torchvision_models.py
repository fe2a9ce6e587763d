"""Classifiers, a segmenter and video networks of torchvision, in training mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compatibility.model import Loss, Model, called, integers, numbers

NEEDS = ("torchvision",)

AUXILIARY = 0.4
"""Weight of the losses of the classifiers in the middle of Inception networks."""


def _loss(output: Any) -> Tensor:
    """Cross-entropy of the classes, or of every pixel's; all that an output holds counts."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, integers(output.shape[1], len(output), *output.shape[2:]))
    first, *others = (
        output.values() if isinstance(output, dict) else (each for each in output if each is not None)
    )
    return _loss(first) + AUXILIARY * sum(_loss(each) for each in others)


def _row(name: str, make: Callable[[], nn.Module], *shape: int) -> Model:
    def build() -> tuple[nn.Module, Loss]:
        images = numbers(*shape)
        return make(), lambda module: _loss(called(module, {_first(module): images}))

    return Model(f"torchvision {name}", build)


def _first(module: nn.Module) -> str:
    """What the module calls its input."""
    return module.forward.__code__.co_varnames[1]


def _by_name(name: str, size: int, **options: Any) -> Model:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=10, **options)

    return _row(name, make, 8, 3, size, size)


def _vgg(normalised: bool) -> nn.Module:
    from torchvision.models import vgg

    features = vgg.make_layers([8, "M", 16, "M", 24, "M", 32, "M"], batch_norm=normalised)
    network = vgg.VGG(features, num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier[0] = nn.Linear(32, 64)
    network.classifier[3] = nn.Linear(64, 64)
    network.classifier[6] = nn.Linear(64, 10)
    return network


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), num_init_features=8, num_classes=10)


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10)


def _swin(version: int) -> nn.Module:
    from torchvision.models import swin_transformer as swin

    sizes = {
        "patch_size": [4, 4],
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4],
    }
    if version == 1:
        return swin.SwinTransformer(**sizes, num_classes=10)
    return swin.SwinTransformer(
        **sizes, num_classes=10, block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2
    )


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10)


def _maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((32, 32), 8, 4, [16, 16], [1, 1], 8, 0.1, num_classes=10)


def _regnet(squeezed: bool) -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    sizes = BlockParams([1, 1], [16, 32], [8, 8], [1.0, 1.0], [2, 2], 0.25 if squeezed else None)
    return RegNet(sizes, num_classes=10, stem_width=8)


def _resnet(**options: Any) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10, **options)


def _inception() -> nn.Module:
    """The auxiliary classifier wants images of the usual size."""
    from torchvision.models import inception_v3

    return inception_v3(weights=None, num_classes=10, init_weights=True)


def _video() -> nn.Module:
    from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

    return VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, num_classes=10)


MODELS = [
    _by_name("resnet18", 32),
    _row("resnext", lambda: _resnet(groups=4, width_per_group=4), 8, 3, 32, 32),
    _row("wide_resnet", lambda: _resnet(width_per_group=128), 8, 3, 32, 32),
    _by_name("alexnet", 64),
    _row("vgg", lambda: _vgg(False), 8, 3, 32, 32),
    _row("vgg with batch norm", lambda: _vgg(True), 8, 3, 32, 32),
    _by_name("squeezenet1_0", 48),
    _by_name("squeezenet1_1", 48),
    _row("densenet", _densenet, 8, 3, 32, 32),
    _row("inception_v3", _inception, 2, 3, 299, 299),
    _by_name("googlenet", 64, init_weights=True),
    _by_name("mobilenet_v2", 64, width_mult=0.25),
    _by_name("mobilenet_v3_small", 64, width_mult=0.5),
    _by_name("mobilenet_v3_large", 64, width_mult=0.5),
    _by_name("mnasnet0_5", 64),
    _by_name("shufflenet_v2_x0_5", 64),
    _by_name("efficientnet_b0", 64),
    _by_name("efficientnet_v2_s", 64),
    _row("regnet_x", lambda: _regnet(False), 8, 3, 32, 32),
    _row("regnet_y", lambda: _regnet(True), 8, 3, 32, 32),
    _row("convnext", _convnext, 8, 3, 32, 32),
    _row("vit", _vit, 8, 3, 32, 32),
    _row("swin", lambda: _swin(1), 8, 3, 32, 32),
    _row("swin_v2", lambda: _swin(2), 8, 3, 32, 32),
    _row("maxvit", _maxvit, 8, 3, 32, 32),
    _by_name("lraspp_mobilenet_v3_large", 64, weights_backbone=None),
    _row("r3d", _video, 2, 3, 4, 16, 16),
]
