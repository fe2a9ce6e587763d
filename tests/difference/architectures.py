"""Small copies of the networks people train, written with stock torch modules."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


def le_net():
    """28×28 would be 61 706 parameters; 16×16 here, the same layers."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10),
    )  # fmt: skip


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet20(nn.Module):
    """Three stages of three blocks, as for CIFAR-10; 4, 8 and 16 channels instead of 16, 32 and 64."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        blocks, inputs = [], 4
        for outputs, stride in ((4, 1), (8, 2), (16, 2)):
            for place in range(3):
                blocks.append(BasicBlock(inputs, outputs, stride if place == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.head(torch.flatten(self.pool(x), 1))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, stock encoder layers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.places = nn.Parameter(torch.randn(1, 17, 12) * 0.02)
        layer = nn.TransformerEncoderLayer(12, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.encoder(x)[:, 0])


class GPTBlock(nn.Module):
    """Causal attention by hand over F.scaled_dot_product_attention, as GPT-2's."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        samples, times, width = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (
            each.view(samples, times, self.heads, width // self.heads).transpose(1, 2) for each in (q, k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(samples, times, width)
        x = x + self.dropout(self.c_proj(y))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """``forward(input_ids, labels)`` returns an object with ``loss`` and ``logits``; tied embeddings."""

    def __init__(self, vocabulary=19, width=12, places=16, heads=3, layers=2, dropout=0.0):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(places, width)
        self.blocks = nn.ModuleList(GPTBlock(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, input_ids, labels=None):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(places)
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        loss = None
        if labels is not None:
            shifted = logits[..., :-1, :].contiguous()
            loss = F.cross_entropy(shifted.view(-1, shifted.size(-1)), labels[..., 1:].reshape(-1))
        return SimpleNamespace(loss=loss, logits=logits)


class Recurrent(nn.Module):
    """A stock recurrent module and a head on its last output."""

    def __init__(self, kind, **settings):
        super().__init__()
        self.rnn = kind(5, 7, batch_first=True, **settings)
        ways = 2 if settings.get("bidirectional") else 1
        self.head = nn.Linear(ways * (settings.get("proj_size") or 7), 10)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])
