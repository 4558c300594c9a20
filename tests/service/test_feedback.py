import math

import pytest
from scipy.stats import beta

from service.feedback import Answered, Rate, Recent, Tally


@pytest.mark.parametrize("images", [1, 2, 10, 1000, 200_000])
@pytest.mark.parametrize("share", [0, 0.03, 0.5, 1])
def test_the_bounds_are_clopper_and_pearson_s(images: int, share: float) -> None:
    events = round(images * share)
    rate = Rate(images, events)
    assert rate.lower == pytest.approx(beta.ppf(0.025, events, images - events + 1) if events else 0, abs=1e-10)
    assert rate.upper == pytest.approx(beta.ppf(0.975, events + 1, images - events) if events < images else 1, abs=1e-10)
    assert rate.lower <= rate.ratio <= rate.upper


def test_without_images_nothing_is_known() -> None:
    rate = Rate(0, 0)
    assert math.isnan(rate.ratio)
    assert (rate.lower, rate.upper) == (0, 1)


def test_rates_count_rejects_of_id_and_accepts_of_ood() -> None:
    tally, request = Tally(), Answered("model", [True, True, False, False, False])
    decisions = [request.tell(position, truth, tally) for position, truth in ((1, "id"), (2, "ood"), (3, "id"), (4, "id"), (5, "ood"))]
    assert decisions == ["rejected", "rejected", "accepted", "accepted", "accepted"]
    assert tally.false_reject == Rate(3, 1)
    assert tally.missed_ood == Rate(2, 1)


def test_the_truth_told_again_replaces_what_was_told_before() -> None:
    tally, request = Tally(), Answered("model", [False])
    for truth in ("id", "ood", "ood"):
        request.tell(1, truth, tally)
    assert (tally.false_reject, tally.missed_ood) == (Rate(0, 0), Rate(1, 1))


def test_only_the_latest_requests_are_remembered_and_an_id_used_again_means_the_later_one() -> None:
    recent: Recent[int] = Recent(3)
    for number, name in enumerate("abac d".replace(" ", "")):
        recent.remember(name, Answered(number, [False]))
    assert recent.find("b") is None
    assert {name: answered.by for name, answered in recent.requests.items()} == {"a": 2, "c": 3, "d": 4}
    none: Recent[int] = Recent(0)
    none.remember("a", Answered(0, [False]))
    assert none.find("a") is None
