import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.config import Recipe
from training.step import WARM_UP
from training.train import Trainer

STEPS = 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("loss", ["ce", "logitnorm", "elogitnorm"])
def test_recorded_steps_are_those_that_are_not(recipe: Recipe, tmp_path: Path, loss: str) -> None:
    recipe = replace(recipe, loss=loss, precision="fp32", augmentation="none", lr=0.01)  # type: ignore[arg-type]
    recorded, plain = (Trainer(recipe, tmp_path / name) for name in ("recorded", "plain"))
    assert plain.take_step.stream is not None
    plain.take_step.stream = None
    found = {}
    for name, trainer in (("recorded", recorded), ("plain", plain)):
        trainer.network.train()
        losses, rows = [], [torch.arange(16) + step for step in range(STEPS)]
        for images, labels in trainer.train_set.batches(rows):
            losses.append(trainer.train_step(images, labels)[0].item())
            trainer.step += 1
        found[name] = (losses, copy.deepcopy(trainer.network.state_dict()))
    assert recorded.take_step.graph is not None
    assert plain.take_step.graph is None
    assert recorded.take_step.taken == WARM_UP
    # A GPU adds in another order every time, and eight steps let that grow.
    assert found["recorded"][0] == pytest.approx(found["plain"][0], rel=3e-2)
    assert len(set(found["recorded"][0])) == STEPS
    for key, value in found["plain"][1].items():
        torch.testing.assert_close(found["recorded"][1][key], value, rtol=3e-2, atol=3e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_recorded_run_goes_on_after_a_stop(recipe: Recipe, tmp_path: Path) -> None:
    first = Trainer(recipe, tmp_path / "run")
    first.fit()
    again = Trainer(replace(recipe, epochs=3), tmp_path / "run", checkpoint.read(tmp_path / "run" / "last.pt"))
    again.fit()
    assert again.epoch == 3
    assert again.take_step.graph is not None
    assert again.rate.item() == pytest.approx(again.optimizer.param_groups[0]["lr"].item())
    assert again.optimizer.param_groups[0]["lr"] is again.rate
