"""Networks as PyTorch and torchvision compute them, written out in NumPy with float64: images are
[n, c, h, w], parameters have the names and layouts of PyTorch's files."""

import numpy as np
from scipy import special


def parameters(arrays, layer, *names):
    """Arrays of a layer as float64; None for one that is absent."""
    return [
        np.float64(arrays[f"{layer}.{name}"]) if f"{layer}.{name}" in arrays else None
        for name in names
    ]


def conv(p, layer, x, stride=1, padding=(0, 0), depthwise=False):
    weight, bias = parameters(p, layer, "weight", "bias")
    x = np.pad(x, ((0, 0), (0, 0), padding, padding))
    views = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
    views = views[:, :, ::stride, ::stride]
    if depthwise:
        y = np.einsum("nchwij,cij->nchw", views, weight[:, 0])
    else:
        y = np.einsum("nchwij,ocij->nohw", views, weight)
    return y if bias is None else y + bias[:, None, None]


def same(size, kernel, stride):
    """TensorFlow's padding: the smaller half before."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def batch_norm(p, layer, x, eps=1e-5):
    weight, bias, mean, var = parameters(p, layer, "weight", "bias", "running_mean", "running_var")
    scale = weight / np.sqrt(var + eps)
    return (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]


def layer_norm(p, layer, x):
    weight, bias = parameters(p, layer, "weight", "bias")
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + 1e-6
    ) * weight + bias


def linear(p, layer, x):
    weight, bias = parameters(p, layer, "weight", "bias")
    return x @ weight.T + bias


def max_pool(x, window, stride, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), *[(padding, padding)] * 2), constant_values=-np.inf)
    views = np.lib.stride_tricks.sliding_window_view(x, (window, window), (2, 3))
    return views[:, :, ::stride, ::stride].max((-2, -1))


def adaptive_mean(x, grid):
    h, w = (
        [slice(i * n // grid, -(-(i + 1) * n // grid)) for i in range(grid)] for n in x.shape[2:]
    )
    rows = [np.stack([x[:, :, i, j].mean((2, 3)) for j in w], -1) for i in h]
    return np.stack(rows, -2)


def relu(x):
    return np.maximum(x, 0)


def basic_block(p, name, x, stride, shortcut):
    y = relu(batch_norm(p, f"{name}.bn1", conv(p, f"{name}.conv1", x, stride, (1, 1))))
    y = batch_norm(p, f"{name}.bn2", conv(p, f"{name}.conv2", y, 1, (1, 1)))
    return relu(y + shortcut(p, name, x, stride, y.shape[1]))


def bottleneck(p, name, x, stride, shortcut):
    y = relu(batch_norm(p, f"{name}.bn1", conv(p, f"{name}.conv1", x)))
    y = relu(batch_norm(p, f"{name}.bn2", conv(p, f"{name}.conv2", y, stride, (1, 1))))
    y = batch_norm(p, f"{name}.bn3", conv(p, f"{name}.conv3", y))
    return relu(y + shortcut(p, name, x, stride, y.shape[1]))


def option_a(p, name, x, stride, channels):
    if stride == 1:
        return x
    quarter = channels // 4  # of twice the channels, on either side
    return np.pad(x[:, :, ::2, ::2], ((0, 0), (quarter, quarter), (0, 0), (0, 0)))


def downsample(p, name, x, stride, channels):
    if f"{name}.downsample.0.weight" not in p:
        return x
    return batch_norm(p, f"{name}.downsample.1", conv(p, f"{name}.downsample.0", x, stride))


def resnet(p, x, blocks, block, shortcut, head, imagenet):
    x = conv(p, "conv1", x, 2, (3, 3)) if imagenet else conv(p, "conv1", x, 1, (1, 1))
    x = relu(batch_norm(p, "bn1", x))
    x = max_pool(x, 3, 2, padding=1) if imagenet else x
    for group, size in enumerate(blocks, 1):
        for i in range(size):
            x = block(p, f"layer{group}.{i}", x, 2 if group > 1 and i == 0 else 1, shortcut)
    return linear(p, head, x.mean((2, 3)))


def uva_resnet(p, x, blocks):
    x = relu(batch_norm(p, "model.input_net.1", conv(p, "model.input_net.0", x, padding=(1, 1))))
    strides = [2 if group and not i else 1 for group, n in enumerate(blocks) for i in range(n)]
    for i, stride in enumerate(strides):
        net = f"model.blocks.{i}.net"
        y = relu(batch_norm(p, f"{net}.1", conv(p, f"{net}.0", x, stride, (1, 1))))
        y = batch_norm(p, f"{net}.4", conv(p, f"{net}.3", y, 1, (1, 1)))
        x = conv(p, f"model.blocks.{i}.downsample", x, 2) if stride == 2 else x
        x = relu(x + y)
    return linear(p, "model.output_net.2", x.mean((2, 3)))


def vgg(p, x, groups):
    place = 0
    for group in groups:
        for _ in group:
            x, place = relu(conv(p, f"features.{place}", x, 1, (1, 1))), place + 2
        x, place = max_pool(x, 2, 2), place + 1
    x = adaptive_mean(x, 7).reshape(len(x), -1)
    for place in (0, 3):
        x = relu(linear(p, f"classifier.{place}", x))
    return linear(p, "classifier.6", x)


def alexnet(p, x):
    x = max_pool(relu(conv(p, "features.0", x, 4, (2, 2))), 3, 2)
    x = max_pool(relu(conv(p, "features.3", x, 1, (2, 2))), 3, 2)
    for place in (6, 8, 10):
        x = relu(conv(p, f"features.{place}", x, 1, (1, 1)))
    x = adaptive_mean(max_pool(x, 3, 2), 6).reshape(len(x), -1)
    for place in (1, 4):
        x = relu(linear(p, f"classifier.{place}", x))
    return linear(p, "classifier.6", x)


def efficientnet_lite(p, x, groups):
    def layer(convolution, norm, x, kernel=1, stride=1, depthwise=False):
        padding = same(x.shape[2], kernel, stride)
        return batch_norm(p, norm, conv(p, convolution, x, stride, padding, depthwise), eps=1e-3)

    def relu6(x):
        return np.clip(x, 0, 6)

    x, i = relu6(layer("_conv_stem", "_bn0", x, 3, 2)), 0
    for repeats, kernel, first_stride, expansion, _ in groups:
        for repeat in range(repeats):
            name, stride, y = f"_blocks.{i}.", 1 if repeat else first_stride, x
            if expansion > 1:
                y = relu6(layer(f"{name}_expand_conv", f"{name}_bn0", y))
            y = relu6(layer(f"{name}_depthwise_conv", f"{name}_bn1", y, kernel, stride, True))
            y = layer(f"{name}_project_conv", f"{name}_bn2", y)
            x, i = (y + x if stride == 1 and y.shape == x.shape else y), i + 1
    x = relu6(layer("_conv_head", "_bn1", x))
    return linear(p, "_fc", x.mean((2, 3)))


def vit(p, x, heads, patch):
    x = conv(p, "conv_proj", x, patch)
    x = x.reshape(*x.shape[:2], -1).swapaxes(1, 2)
    token = np.repeat(p["class_token"], len(x), 0)
    x = np.concatenate([token, x], 1) + p["encoder.pos_embedding"]
    width = x.shape[-1]
    for i in range(sum(name.endswith("ln_1.weight") for name in p)):
        name = f"encoder.layers.encoder_layer_{i}"
        y = layer_norm(p, f"{name}.ln_1", x)
        attention = f"{name}.self_attention"
        y = y @ p[f"{attention}.in_proj_weight"].T + p[f"{attention}.in_proj_bias"]
        q, k, v = (
            part.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for part in np.split(y, 3, -1)
        )
        weights = special.softmax(q @ k.swapaxes(2, 3) / np.sqrt(width // heads), -1)
        y = (weights @ v).swapaxes(1, 2).reshape(x.shape)
        x = x + linear(p, f"{attention}.out_proj", y)
        y = linear(p, f"{name}.mlp.0", layer_norm(p, f"{name}.ln_2", x))
        y = y * (1 + special.erf(y / np.sqrt(2))) / 2
        x = x + linear(p, f"{name}.mlp.3", y)
    return linear(p, "heads.head", layer_norm(p, "encoder.ln", x)[:, 0])
