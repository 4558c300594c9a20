"""What others have published of CIFAR-10, ResNet-18, 100 epochs, with OpenOOD v1.5's sets: what ours is held against."""

# Near and far AUROC in %. Cross-entropy and LogitNorm: OpenOOD v1.5's leaderboard (arXiv 2306.09301), three runs each.
# ELogitNorm: arXiv 2504.11434; its near values were not to be had.
PUBLISHED: dict[str, dict[str, tuple[float | None, float]]] = {
    "ce": {
        "msp": (88.03, 90.73),
        "mls": (87.52, 91.10),
        "ebo": (87.58, 91.21),
        "gen": (88.20, 91.35),
        "react": (87.11, 90.42),
        "scale": (82.55, 86.39),
        "ash": (75.27, 78.49),
        "fdbd": (90.42, 93.16),
        "knn": (90.64, 92.96),
        "mds": (84.20, 89.72),
        "rmds": (89.80, 92.20),
        "vim": (88.68, 93.48),
        "nci": (88.86, 91.27),
        "she": (81.54, 85.32),
        "dice": (78.34, 84.23),
        "klm": (79.19, 82.68),
        "relation": (89.77, 92.21),
        "gradnorm": (54.90, 57.55),
        "tempscale": (88.09, 90.97),
        "openmax": (87.62, 89.62),
        "weiper": (90.54, 93.12),
        "odin": (82.87, 87.96),
        "iodin": (87.92, 90.99),
    },
    "logitnorm": {"msp": (92.33, 96.74)},
    "elogitnorm": {"msp": (None, 96.68), "scale": (None, 96.94)},
}
# AUROC in %, set by set: arXiv 2504.11434 as wizwand.com tells it, without the score's name.
PUBLISHED_SETS = {
    "elogitnorm": {"cifar100": 91.05, "tiny-imagenet": 93.88, "mnist": 99.54, "svhn": 98.78, "textures": 95.78, "places365": 94.44},
}
# Accuracy (cross-entropy and LogitNorm: 100 epochs, OpenOOD; ELogitNorm: 200 epochs), ECE of softmax(f), and of softmax(f / D(z)), in %.
PUBLISHED_ID: dict[str, tuple[float, float, float | None]] = {
    "ce": (95.06, 3.3, None),
    "logitnorm": (94.30, 58.7, None),
    "elogitnorm": (95.11, 26.7, 1.8),
}
