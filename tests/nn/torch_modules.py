"""Small networks as PyTorch modules with torchvision's names and plan; importing it needs torch."""

import torch
from torch import nn


class Block(nn.Module):
    """torchvision's BasicBlock, or its Bottleneck with the stride in the convolution of 3 x 3."""

    def __init__(self, inputs, width, stride, wide):
        super().__init__()
        sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if wide:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.depth = len(sizes)
        for i, (a, b, kernel, step) in enumerate(sizes, 1):
            convolution = nn.Conv2d(a, b, kernel, step, padding=kernel // 2, bias=False)
            setattr(self, f"conv{i}", convolution)
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        outputs = sizes[-1][1]
        self.downsample = None
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.depth else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, blocks, width, classes, wide):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.maxpool = nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1)
        inputs, self.groups = width, len(blocks)
        for group, size in enumerate(blocks):
            layers = []
            for i in range(size):
                stride = 2 if group and not i else 1
                layers.append(Block(inputs, width * 2**group, stride, wide))
                inputs = width * 2**group * (4 if wide else 1)
            setattr(self, f"layer{group + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for group in range(self.groups):
            x = getattr(self, f"layer{group + 1}")(x)
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, groups, hidden, classes):
        super().__init__()
        layers, inputs = [], 3
        for group in groups:
            for width in group:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7)
        first, second = hidden
        self.classifier = nn.Sequential(
            *(nn.Linear(49 * inputs, first), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(first, second), nn.ReLU(), nn.Dropout()),
            nn.Linear(second, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class AlexNet(nn.Module):
    def __init__(self, widths, hidden, classes):
        super().__init__()
        a, b, c, d, e = widths
        self.features = nn.Sequential(
            *(nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool, (first, second) = nn.AdaptiveAvgPool2d(6), hidden
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(36 * e, first), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(first, second), nn.ReLU()),
            nn.Linear(second, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class EncoderBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            *(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0)),
            *(nn.Linear(4 * width, width), nn.Dropout(0)),
        )

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    def __init__(self, tokens, width, blocks, heads):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens, width) / 50)
        self.layers = nn.Sequential()
        for i in range(blocks):
            self.layers.add_module(f"encoder_layer_{i}", EncoderBlock(width, heads))
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        return self.ln(self.layers(x + self.pos_embedding))


class ViT(nn.Module):
    def __init__(self, side, patch, width, blocks, heads, classes):
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, width) / 50)
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = Encoder((side // patch) ** 2 + 1, width, blocks, heads)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, classes))

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        return self.heads(self.encoder(x)[:, 0])


def shaken(module):
    """The module in evaluation, with statistics and scales unlike those of its start."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(10 ** (-4 * torch.rand_like(tensor)))
            elif name.endswith("running_mean") or (tensor.ndim == 1 and tensor.is_floating_point()):
                tensor.copy_(torch.randn_like(tensor) * 0.3)
    return module.eval()
