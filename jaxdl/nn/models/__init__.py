"""Networks, one family a file, by name in a literal table."""

from jaxdl.nn.models import adversarial, convnet

MODELS = {
    "glyph_net": convnet.glyph_net,
    "digit_net": convnet.digit_net,
    "cifar_net": convnet.cifar_net,
    "caffenet": convnet.caffenet,
    "mlp": convnet.mlp,
    "small_net": convnet.small_net,
}

ADVERSARIAL_MODELS = {
    "dann_digits": adversarial.dann_digits,
    "dann_mnist": adversarial.dann_mnist,
    "dann_svhn": adversarial.dann_svhn,
    "dann_gtsrb": adversarial.dann_gtsrb,
}
"""An encoder with a head for labels and one for domains."""
