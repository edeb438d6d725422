"""Multilayer perceptrons of a user's own, whose layers can be applied one by one, or nearly."""

import flax.linen as nn


class LayeredMLP(nn.Module):
    """Layers ``tanh(norm(x W))``; the last is affine.

    Args:
      fault: what is wrong where layers are applied one by one.
      words: names of the layers that do not end in their depth.
    """

    outputs: int = 3
    fault: str = ""
    words: tuple[str, ...] = ()
    normalized: bool = True
    axis_name: str | None = None

    def names(self):
        """The layers' names, in their order."""
        return list(self.words or ("dense1", "dense2", "dense3"))

    @nn.compact
    def __call__(self, x, train=False, start=0, stop=3):
        if start == 0 or self.fault == "doubles at every start":
            x = 2 * x.reshape(len(x), -1)
        if start and self.fault == "reads a layer below":
            x = x + self.variables["params"][self.names()[0]]["Dense_0"]["bias"].mean()
        for depth, width in enumerate((6, 5, self.outputs), start=1):
            if self.fault == "goes on" or start < depth <= stop:
                plain = depth == 3 or not self.normalized
                plain = plain or (start and self.fault == "leaves statistics out")
                settings = width, plain, self.fault, self.axis_name
                layer = Layer(*settings, name=self.names()[depth - 1])
                x = layer(x, train) if depth == 3 else nn.tanh(layer(x, train))
        if self.fault == "not finite":
            x = x / 0
        return x[..., :2] if self.fault == "narrows" and stop - start == 3 else x


class Layer(nn.Module):
    """A dense layer and, unless it is plain, batch normalization. With a fault the kernels of the
    plain are zero at first, which must not hide it."""

    width: int
    plain: bool
    fault: str
    axis_name: str | None

    @nn.compact
    def __call__(self, x, train=False):
        start = nn.initializers.zeros if self.plain and self.fault else nn.initializers.he_normal()
        x = nn.Dense(self.width, kernel_init=start)(x)
        return x if self.plain else nn.BatchNorm(not train, axis_name=self.axis_name)(x)


def worded(outputs):
    """Without batch normalization, with names that do not end in their depth."""
    return LayeredMLP(outputs, words=("stem", "body", "head"), normalized=False)


def doubling(outputs):
    """With a fault."""
    return LayeredMLP(outputs, "doubles at every start")


class Alone(nn.Module):
    """Whose batch statistics are each device's own."""

    outputs: int

    @nn.compact
    def __call__(self, x, train=False, start=0, stop=2):
        return nn.Dense(self.outputs, name="fc2")(
            nn.BatchNorm(not train, name="norm1")(x.reshape(len(x), -1))
        )


def wide(outputs):
    """With more outputs than there are classes."""
    return LayeredMLP(outputs + 3)
