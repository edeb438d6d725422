"""Networks, one family a file, by name in a literal table."""

from jaxdl.nn.models import convnet

MODELS = {
    "glyph_net": convnet.glyph_net,
    "digit_net": convnet.digit_net,
    "cifar_net": convnet.cifar_net,
    "caffenet": convnet.caffenet,
}
