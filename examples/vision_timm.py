"""Trains one of timm's MLP-Mixers on scikit-learn's digits by forward passes only, in a loop of one's own.

``zo.estimate_gradient`` stands where the forward and the backward pass were; the optimizer is torch's Adam.

    pip install timm && python examples/vision_timm.py
"""

import argparse

import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import MlpMixer

import zo_triton as zo


def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose class is the most likely one."""
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


def main() -> None:
    """Trains, and prints losses and accuracies on the way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    torch.manual_seed(0)
    data = zo.data.digits()
    images, labels, *test = (
        torch.from_numpy(each) for each in (data.train_x, data.train_y, data.test_x, data.test_y)
    )
    images, test[0] = images.view(-1, 1, 8, 8), test[0].view(-1, 1, 8, 8)
    model = MlpMixer(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, num_blocks=1)
    params = list(model.parameters())
    adam = torch.optim.Adam(params, lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, options.steps)
    print(f"before: test accuracy {accuracy(model, *test):.0%}")
    for step in range(options.steps):
        batch = torch.randint(len(images), (64,))
        model.train()
        directions = zo.Directions(seed=0, step=step, num=32)
        loss = zo.estimate_gradient(
            lambda: F.cross_entropy(model(images[batch]), labels[batch]),  # noqa: B023
            params, directions, eps=1e-3,
        )  # fmt: skip
        adam.step()
        schedule.step()
        if (step + 1) % max(1, options.steps // 5) == 0:
            print(f"step {step + 1}: loss {loss:.2f}, test accuracy {accuracy(model, *test):.0%}")


if __name__ == "__main__":
    main()
