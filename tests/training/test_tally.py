import pytest
import torch

from training.tally import Tally


def test_reading_seldom_gives_the_same_means_as_reading_every_step() -> None:
    often, seldom = Tally(torch.device("cpu")), Tally(torch.device("cpu"))
    seldom.every = 3
    for step in range(7):
        values = torch.tensor(1 / (step + 1)), torch.tensor(step / 7)
        for tally in (often, seldom):
            tally.add(*values)
            if tally.due:
                tally.read(stopping=False)
    assert seldom.steps == 1
    seldom.read(stopping=False)
    assert seldom.sums == pytest.approx(often.sums, rel=1e-15)


def test_a_stop_and_a_bad_loss_are_seen_at_the_next_reading() -> None:
    tally = Tally(torch.device("cpu"))
    tally.add(torch.tensor(float("nan")), torch.tensor(0.5))
    tally.add(torch.tensor(1.0), torch.tensor(0.5))
    assert tally.read(stopping=True)
    assert tally.loss != tally.loss
    assert tally.accuracy == 0.5
