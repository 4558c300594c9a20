from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from training.config import Recipe
from training.losses import LOSSES
from training.regmixup import make_batch
from training.train import Trainer

LABELS = torch.tensor([0, 3, 2, 1, 3, 1])


def pictures() -> Tensor:
    return torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=Generator().manual_seed(1))


def test_without_alpha_a_batch_is_what_it_was() -> None:
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    images = pictures()
    batch = make_batch(images, LABELS, 0.0, generator)
    assert batch.images is images
    assert torch.equal(generator.get_state(), before)
    head, logits = nn.Linear(5, 4), torch.randn(6, 4, generator=Generator().manual_seed(2))
    for loss in LOSSES.values():
        assert torch.equal(batch.loss(loss, logits, head), loss(logits, head, LABELS))


def test_the_second_half_is_the_first_mixed_with_a_shuffling_of_itself() -> None:
    images = pictures()
    batch = make_batch(images, LABELS, 20.0, Generator().manual_seed(0))
    assert torch.equal(batch.images[:6], images.float())
    assert 0 < batch.share < 1
    partners = []
    for i in range(6):
        mixes = [batch.share * images[i].float() + (1 - batch.share) * images[j].float() for j in range(6)]
        (j,) = [j for j in range(6) if torch.allclose(mixes[j], batch.images[6 + i])]
        partners.append(j)
        assert (batch.first[6 + i], batch.second[6 + i]) == (LABELS[i], LABELS[j])
    assert sorted(partners) == list(range(6))
    assert torch.equal(batch.first[:6], LABELS)
    assert torch.equal(batch.second[:6], LABELS)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_half_the_papers_sum_of_the_plain_and_the_mixed_term(name: str) -> None:
    loss, head = LOSSES[name], nn.Linear(5, 4)
    batch = make_batch(pictures(), LABELS, 10.0, Generator().manual_seed(0))
    logits = torch.randn(12, 4, generator=Generator().manual_seed(2))
    plain = loss(logits[:6], head, LABELS)
    mixed = batch.share * loss(logits[6:], head, batch.first[6:]) + (1 - batch.share) * loss(logits[6:], head, batch.second[6:])
    torch.testing.assert_close(batch.loss(loss, logits, head), (plain + mixed) / 2)


def test_the_shares_are_drawn_from_beta_alpha_alpha() -> None:
    generator = Generator().manual_seed(0)
    shares = np.array([make_batch(pictures(), LABELS, 20.0, generator).share for _ in range(500)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.std() == pytest.approx(np.sqrt(1 / (4 * 41)), rel=0.15)


def test_accuracy_is_of_the_plain_pictures_alone() -> None:
    batch = make_batch(pictures(), LABELS, 20.0, Generator().manual_seed(0))
    right = nn.functional.one_hot(LABELS, 4).float()
    assert batch.accuracy(torch.cat([right, -right])) == 1


@pytest.mark.parametrize(
    ("loss", "extra"), [("ce", {"regmixup": 20.0}), ("elogitnorm", {"regmixup": 20.0, "randaugment": 1}), ("logitnorm", {"regmixup": 10.0})]
)
def test_a_run_learns_with_regmixup_and_resumes_to_the_same_weights(recipe: Recipe, tmp_path: Path, loss: Any, extra: dict[str, Any]) -> None:
    from tests.training.test_train import StopsItself, last, same
    from training.processes import Stopped
    from training.train import train

    recipe = replace(recipe, loss=loss, epochs=3, **extra)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    best = train(recipe, whole)
    assert best > 0.3
    trainer = StopsItself(recipe, halves)
    trainer.at = (1, 2)
    with pytest.raises(Stopped):
        trainer.fit()
    train(recipe, halves, resume=True)
    assert same(last(whole), last(halves))


def test_a_step_trains_on_twice_the_batch(recipe: Recipe, tmp_path: Path) -> None:
    seen: list[int] = []
    trainer = Trainer(replace(recipe, regmixup=20.0), tmp_path / "run")
    trainer.network.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    trainer.network.train()
    trainer.train_step(*next(trainer.train_set.batches([torch.arange(16)])))
    assert seen == [32]
