from pathlib import Path
from typing import Any

import pytest

from training.config import PRESETS, Recipe, TrainingError, default_run_folder


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 7},
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"final_lr": -1.0},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"calibration_share": -0.1},
        {"calibration_share": 1.0},
        {"calibration_limit": 0},
        {"validation_share": 0.0},
        {"validation_limit": 0},
        {"seed": -1},
        {"pretrained": True},
        {"pretrained": True, "initial": "runs/x", "network": "resnet18_224x224"},
        {"width": 8, "network": "resnet18_224x224"},
        {"width": 23, "network": "airbench_32x32"},
        {"warmup_epochs": -0.5},
        {"warmup_epochs": 100},
        {"loss": "hinge"},
        {"network": "vgg"},
        {"precision": "fp8"},
        {"augmentation": "mixup"},
        {"size": 16},
        {"randaugment": -1},
        {"randaugment_magnitude": 31},
        {"regmixup": -1.0},
        {"regmixup": float("inf")},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_work_is_refused_with_the_name_and_the_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainingError) as refused:
        Recipe(data="set", **wrong)
    name, value = next(iter(wrong.items()))
    assert name in str(refused.value)
    assert str(value) in str(refused.value) or value is True


def test_a_recipe_is_the_papers_by_default() -> None:
    recipe = Recipe(data="cifar10")
    assert (recipe.loss, recipe.epochs, recipe.batch_size, recipe.lr, recipe.final_lr) == ("elogitnorm", 100, 128, 0.1, 1e-6)
    assert (recipe.momentum, recipe.weight_decay, recipe.width, recipe.augment) == (0.9, 5e-4, 64, "crop-flip")
    assert (recipe.calibration_share, recipe.calibration_limit) == (0.1, 5000)


def test_a_recipe_survives_being_saved() -> None:
    recipe = Recipe(data="set", network="resnet50_224x224", augmentation="none", seed=3)
    assert Recipe(**recipe.as_dict()) == recipe


@pytest.mark.parametrize(("network", "size"), [("resnet18_32x32", 32), ("resnet50_224x224", 224)])
@pytest.mark.parametrize("augmentation", [None, "none", "crop-flip", "resized-crop-flip"])
def test_training_pictures_are_cut_to_the_size_the_network_is_served_with(network: Any, size: int, augmentation: Any) -> None:
    import torch

    from training.augment import augment

    recipe = Recipe(data="set", network=network, augmentation=augmentation)
    kept = torch.zeros(2, recipe.training_input.crop, recipe.training_input.crop, 3, dtype=torch.uint8)
    assert recipe.input.crop == recipe.input.size == size
    assert augment(kept, recipe.augment, recipe.input.size, torch.Generator()).shape == (2, size, size, 3)


def test_a_224_network_cuts_its_windows_from_256_pixels() -> None:
    recipe = Recipe(data="set", network="resnet18_224x224")
    assert recipe.augment == "resized-crop-flip"
    assert recipe.training_input.crop == recipe.training_input.resize == 256


def test_the_run_folder_tells_data_network_loss_and_seed() -> None:
    recipe = Recipe(data="sets/birds/", loss="ce", seed=2)
    assert default_run_folder(recipe) == Path("runs/birds-resnet18_32x32-ce-s2")


def test_the_run_folder_of_a_parquet_file_with_a_condition_is_named_after_the_file() -> None:
    assert default_run_folder(Recipe(data="sets/a.parquet#split=x/y")) == Path("runs/a-resnet18_32x32-elogitnorm-s0")


def test_a_size_of_ones_own_keeps_the_share_that_is_cut_from_the_middle() -> None:
    recipe = Recipe(data="set", network="resnet18_224x224", size=64)
    assert (recipe.input.size, recipe.input.resize, recipe.input.crop) == (64, 73, 64)
    assert recipe.training_input.crop == 73
    assert Recipe(data="set", network="resnet18_224x224").input.resize == 256
    small = Recipe(data="set", size=64)
    assert (small.input.size, small.input.resize) == (64, 64)


@pytest.mark.parametrize(
    ("name", "network", "pretrained", "epochs", "lr"),
    [
        ("cifar", "resnet18_32x32", False, 100, 0.1),
        ("imagenet200", "resnet18_224x224", False, 90, 0.1),
        ("imagenet1k", "resnet50_224x224", True, 30, 0.001),
    ],
)
def test_presets_are_the_papers_recipes(name: str, network: str, pretrained: bool, epochs: int, lr: float) -> None:
    recipe = Recipe(data="set", **PRESETS[name])
    assert (recipe.network, recipe.pretrained, recipe.epochs, recipe.lr) == (network, pretrained, epochs, lr)
    assert (recipe.loss, recipe.momentum, recipe.weight_decay, recipe.final_lr) == ("elogitnorm", 0.9, 5e-4, 1e-6)
    assert recipe.batch_size == (128 if name == "cifar" else 256)
    assert recipe.augment == ("crop-flip" if name == "cifar" else "resized-crop-flip")
