"""Networks, one family a file, by name in a literal table."""

from jaxdl.nn.models import adversarial, convnet, lecun, mlp

MODELS = {
    "glyph_net": convnet.glyph_net,
    "digit_net": convnet.digit_net,
    "cifar_net": convnet.cifar_net,
    "caffenet": convnet.caffenet,
    "small_net": convnet.small_net,
    "pairs_net": convnet.pairs_net,
    "linear": convnet.linear,
    "mlp": mlp.mlp,
    "net1": lecun.net1,
    "net2": lecun.net2,
    "net3": lecun.net3,
    "net4": lecun.net4,
    "net5": lecun.net5,
    "zip_code": lecun.zip_code,
    "lenet5": lecun.lenet5,
}
"""``MODELS[name](outputs, axis_name=None, **options)`` is a module: ``model(x, train=False)`` gives
[b, outputs] for images [b, h, w, c], or for features [b, d] where its first layer is dense."""

ADVERSARIAL_MODELS = {
    "dann_digits": adversarial.dann_digits,
    "dann_mnist": adversarial.dann_mnist,
    "dann_svhn": adversarial.dann_svhn,
    "dann_gtsrb": adversarial.dann_gtsrb,
}
"""An encoder with a head for labels and one for domains."""
