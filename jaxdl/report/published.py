"""Published values, as literal data in the form of our summaries, to be drawn and tabulated alike.

`YOSINSKI_2014`: Yosinski, Clune, Bengio, Lipson, "How transferable are features in deep neural
networks?", NIPS 2014. Top-1 accuracies of AlexNet (CaffeNet, 8 layers) on ImageNet, out of the
authors' own training logs (for each network the mean of its 10 best validations), summarized by our
rules (`transferred.summarize`), so that three things differ from the paper's text:

- Differences are to the base of the same split and half. The paper subtracts the mean of all 8
  bases; since the few fine-tuned networks do not cover all halves, AnB+ gains 1.67 points over base
  on average over n that way, .97 when paired; BnB+ gains .94 when paired.
- The two directions of a split are one sample: random halves are 4 splits, the dissimilar halves
  (A natural, 449 classes; B man-made, 551 classes) are one split of two networks, each paired
  with its own base, and without a standard error.
- Random frozen features were trained on all 1000 classes; their base is not in the logs.

`DANN_2015` and `DANN_2016`: target accuracies of Ganin & Lempitsky, "Unsupervised Domain Adaptation
by Backpropagation", ICML 2015, and of Ganin et al., "Domain-Adversarial Training of Neural
Networks", JMLR 2016. `DANN_LATER`: of Gallego, Calvo-Zaragoza & Fisher, "Incremental Unsupervised
Domain-Adversarial Training of Neural Networks" (iDANN), with the networks of the former, and of Shu
et al., "A DIRT-T Approach to Unsupervised Domain Adaptation", ICLR 2018, with others.
"""

import math

from jaxdl.report import pinn
from jaxdl.report.dann import Published
from jaxdl.report.tables import Estimate
from jaxdl.report.transferred import Cell

_ = math.nan

# fmt: off
_YOSINSKI_2014 = (
    # split, treatment, n, accuracy, its s.e., difference to base, its s.e., splits, networks
    ("random",     "base",   0, .6251, .0005,      _,     _, 4, 8),

    ("random",     "BnB",    1, .6267, .0041,  .0035, .0017, 4, 4),
    ("random",     "BnB",    2, .6236, .0041,  .0003, .0014, 4, 4),
    ("random",     "BnB",    3, .6211, .0022, -.0022, .0008, 4, 4),
    ("random",     "BnB",    4, .6048, .0028, -.0185, .0010, 4, 4),
    ("random",     "BnB",    5, .5935, .0020, -.0298, .0009, 4, 4),
    ("random",     "BnB",    6, .6188, .0024, -.0045, .0011, 4, 4),
    ("random",     "BnB",    7, .6233, .0027,  .0000, .0003, 4, 4),

    ("random",     "BnB+",   1, .6177,     _,  .0026,     _, 1, 1),
    ("random",     "BnB+",   2, .6215,     _,  .0064,     _, 1, 1),
    ("random",     "BnB+",   3, .6313, .0033,  .0122, .0007, 2, 2),
    ("random",     "BnB+",   4, .6287,     _,  .0136,     _, 1, 1),
    ("random",     "BnB+",   5, .6301, .0029,  .0110, .0011, 2, 2),
    ("random",     "BnB+",   6, .6276, .0043,  .0085, .0003, 2, 2),
    ("random",     "BnB+",   7, .6266,     _,  .0115,     _, 1, 1),

    ("random",     "AnB",    1, .6282, .0012,  .0031, .0009, 4, 8),
    ("random",     "AnB",    2, .6239, .0012, -.0013, .0009, 4, 8),
    ("random",     "AnB",    3, .6189, .0007, -.0062, .0005, 4, 8),
    ("random",     "AnB",    4, .5998, .0013, -.0253, .0010, 4, 8),
    ("random",     "AnB",    5, .5780, .0015, -.0471, .0011, 4, 8),
    ("random",     "AnB",    6, .5806, .0010, -.0445, .0006, 4, 8),
    ("random",     "AnB",    7, .5425, .0014, -.0826, .0010, 4, 8),

    ("random",     "AnB+",   1, .6373,     _,  .0032,     _, 1, 1),
    ("random",     "AnB+",   2, .6358, .0060,  .0063, .0014, 2, 2),
    ("random",     "AnB+",   3, .6426, .0050,  .0131, .0004, 2, 2),
    ("random",     "AnB+",   4, .6399, .0051,  .0103, .0006, 2, 2),
    ("random",     "AnB+",   5, .6446,     _,  .0105,     _, 1, 1),
    ("random",     "AnB+",   6, .6460,     _,  .0119,     _, 1, 1),
    ("random",     "AnB+",   7, .6465,     _,  .0124,     _, 1, 1),

    ("dissimilar", "base",   0, .5953,     _,      _,     _, 1, 2),

    ("dissimilar", "AnB",    1, .5981,     _,  .0028,     _, 1, 2),
    ("dissimilar", "AnB",    2, .5860,     _, -.0093,     _, 1, 2),
    ("dissimilar", "AnB",    3, .5629,     _, -.0324,     _, 1, 2),
    ("dissimilar", "AnB",    4, .5220,     _, -.0733,     _, 1, 2),
    ("dissimilar", "AnB",    5, .4658,     _, -.1295,     _, 1, 2),
    ("dissimilar", "AnB",    6, .4296,     _, -.1657,     _, 1, 2),
    ("dissimilar", "AnB",    7, .3452,     _, -.2501,     _, 1, 2),

    ("whole1000",  "random", 1, .4917,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 2, .4026,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 3, .0011,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 4, .0191,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 5, .0499,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 6, .0145,     _,      _,     _, 1, 1),
    ("whole1000",  "random", 7, .0146,     _,      _,     _, 1, 1),
)
# fmt: on

YOSINSKI_2014: tuple[Cell, ...] = tuple(
    Cell(
        split,
        treatment,
        n,
        accuracy=Estimate(accuracy, accuracy_se, splits),
        difference=Estimate(gap, gap_se, 0 if math.isnan(gap) else splits),
        networks=networks,
    )
    for split, treatment, n, accuracy, accuracy_se, gap, gap_se, splits, networks in _YOSINSKI_2014
)

_DANN = {  # source only, DANN, train on target
    "ICML 2015": {
        "mnist_to_mnist_m": (0.5749, 0.8149, 0.9891),
        "syn_numbers_to_svhn": (0.8665, 0.9048, 0.9244),
        "svhn_to_mnist": (0.5919, 0.7107, 0.9951),
        "syn_signs_to_gtsrb": (0.7400, 0.8866, 0.9987),
    },
    "JMLR 2016": {
        "mnist_to_mnist_m": (0.5225, 0.7666, 0.9596),
        "syn_numbers_to_svhn": (0.8674, 0.9109, 0.9220),
        "svhn_to_mnist": (0.5490, 0.7385, 0.9942),
        "syn_signs_to_gtsrb": (0.7900, 0.8865, 0.9980),
    },
}

DANN_2015, DANN_2016 = (
    tuple(
        Published(source, pair, method, accuracy)
        for pair, accuracies in pairs.items()
        for method, accuracy in zip(("source_only", "dann", "target_only"), accuracies, strict=True)
    )
    for source, pairs in _DANN.items()
)

_TUNED = "deeper network; tuned on 1,000 target labels"

DANN_LATER: tuple[Published, ...] = (
    Published("Gallego et al. 2020", "mnist_to_mnist_m", "idann", 0.9667),
    Published("Gallego et al. 2020", "syn_signs_to_gtsrb", "idann", 0.9800),
    Published("Shu et al. 2018", "mnist_to_mnist_m", "vada", 0.977, _TUNED),
    Published("Shu et al. 2018", "mnist_to_mnist_m", "dirt_t", 0.989, _TUNED),
    Published("Shu et al. 2018", "syn_numbers_to_svhn", "vada", 0.948, _TUNED),
    Published("Shu et al. 2018", "syn_numbers_to_svhn", "dirt_t", 0.961, _TUNED),
    Published("Shu et al. 2018", "svhn_to_mnist", "vada", 0.979, _TUNED),
    Published("Shu et al. 2018", "svhn_to_mnist", "dirt_t", 0.994, _TUNED),
    Published("Shu et al. 2018", "syn_signs_to_gtsrb", "vada", 0.988, _TUNED),
    Published("Shu et al. 2018", "syn_signs_to_gtsrb", "dirt_t", 0.995, _TUNED),
)

DANN = (*DANN_2015, *DANN_2016, *DANN_LATER)

PINN: tuple[pinn.Published, ...] = (
    pinn.Published("burgers", "SOAP (Wang et al. 2025)", 4e-5),
    pinn.Published("allen_cahn", "PirateNet (Wang et al. 2024)", 2.2e-5),
    pinn.Published("allen_cahn", "SOAP (Wang et al. 2025)", 3.5e-6),
    pinn.Published("korteweg_de_vries", "PirateNet (Wang et al. 2024)", 4.3e-4),
)
