"""The operator's way, on a small scale: a real server, a real Prometheus, real pictures. `benchmarks/watch.py` goes it at length."""

from pathlib import Path

import datasets
import pytest

from benchmarks.watch import Found, Pace, scenario

ROOT = Path(__file__).parent.parent
PACE = Pace(per_second=40, clean_seconds=8, mixed_seconds=5, after_seconds=4, scrape_interval="500ms")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What happened to 100 CIFAR-10 pictures and 100 characters photographed in streets; 100 other CIFAR-10 pictures are calibrated on."""
    table = datasets.Dataset.from_parquet(str(ROOT / "tests" / "pictures.parquet")).cast_column("image", datasets.Image(decode=False))
    pictures: dict[str, list[bytes]] = {}
    for row in table:
        pictures.setdefault(row["set"], []).append(row["image"]["bytes"])
    good, folder = pictures["cifar10"], tmp_path_factory.mktemp("watching")
    # Sent again and again, they must not be stranger than alpha allows by chance: of the odd ones 5 % are rejected, of the even ones 11 %.
    return scenario(folder, ROOT / "models", good[1::2], pictures["chars74k"], good[::2], PACE, folder / "dashboard.png")


pytestmark = pytest.mark.slow


def test_no_request_is_lost(found: Found) -> None:
    assert found.lost == {}
    assert found.answered > 500
    assert found.refused_as_broken > 10


def test_the_alert_fires_soon_after_the_world_has_changed_and_not_before(found: Found) -> None:
    assert not found.false_alarm
    assert found.alarm_after_images < 150
    # At 40 requests a second, with what scraping and evaluating take.
    assert found.alert_after_seconds < 15


def test_no_panel_is_empty(found: Found) -> None:
    assert found.empty == []


def test_the_share_of_ood_is_found(found: Found) -> None:
    assert found.prevalence == pytest.approx(found.ood_ratio, abs=4 * found.prevalence_standard_error)


def test_a_stricter_alpha_would_let_some_of_the_rejected_pass(found: Found) -> None:
    assert set(found.replay_changes) == {"newly accepted"}
    assert 0 < found.replay_changes["newly accepted"] < found.replayed


def test_what_is_captured_was_rejected(found: Found) -> None:
    assert found.captured
    assert not found.captured_but_not_rejected


def test_the_new_version_answers_while_requests_go_on_and_ends_the_alert(found: Found) -> None:
    assert found.calibration_images == 100
    assert min(found.answered_by_version[version] for version in (1, 2)) > 50
    assert not found.alert_after_reload
