import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from service.bundle.decision import open_gate
from service.bundle.evaluation import Choice, Search, ShiftedSet
from training.__main__ import main
from training.benchmarks import Targets
from training.checkpoint import load_trained
from training.corruptions import corrupted
from training.evaluate import evaluate
from training.gallery import Gallery
from training.measure import measure
from training.postprocessors import REGISTRY
from training.report import Page, Writer


@pytest.fixture(scope="module")
def page(trained_run: Path, mixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the finished run, from the command line."""
    file = tmp_path_factory.mktemp("report") / "sub" / "page.html"
    main(["report", str(trained_run), "--far", f"mixtures={mixtures}", "--beside", str(trained_run), "--out", str(file)])
    return file.read_text()


def test_the_page_fetches_nothing(page: str) -> None:
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert len(addresses) > 20
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in page


def test_every_score_of_the_registry_has_its_figures_and_pictures(page: str) -> None:
    for key in REGISTRY:
        assert f'<button data-choose="{key}">' in page
        assert f'id="curve-{key}"' in page
        assert len(re.findall(rf' data-of="{key}"', page)) == 3
    assert page.count("<svg") == 3 * len(REGISTRY) + 3
    assert page.count('src="data:image/webp;base64,') == len(REGISTRY) * 2 * 12


def test_the_page_is_well_formed(page: str) -> None:
    """Every element that is opened is closed in order."""
    void = {"meta", "img", "br", "path"}
    open_now: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, *_: object) -> None:
            if tag not in void:
                open_now.append(tag)

        def handle_startendtag(self, *_: object) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            if tag not in void:
                assert open_now.pop() == tag

    Checker().feed(page)
    assert open_now == []


def test_identifiers_of_figures_do_not_meet(page: str) -> None:
    found = re.findall(r'\sid="([^"]+)"', page)
    assert len(found) == len(set(found))


def test_the_threshold_is_the_gates(trained_run: Path, targets: Targets) -> None:
    measured = measure(trained_run, load_trained(trained_run), targets, ["msp"])
    scored = Writer(measured, Page(alpha=0.1, delta=0.1)).scored("msp")
    calibration = measured.calibration["msp"]
    assert len(calibration) == 60
    assert (np.diff(calibration) >= 0).all()
    assert scored.gate == open_gate(calibration, 0.1, "pac", 0.1)
    assert scored.caught["mixtures"] == (measured.ood_scores["mixtures"]["msp"] > scored.gate.threshold).mean()


def test_shifted_pictures_are_good_ones_in_the_full_spectrum_and_their_losses_are_shown(trained_run: Path, targets: Targets) -> None:
    trained = load_trained(trained_run)
    sets = {"noisy": ShiftedSet(images=len(targets.id_test)), "gone": ShiftedSet(images=0, expected=2000)}
    shifted = replace(targets, shifted={"noisy": corrupted(targets.id_test)}, shifted_sets=sets)
    measured = measure(trained_run, trained, shifted, ["msp", "knn"])
    assert measured.evaluation == evaluate(trained_run, trained, shifted, ["msp", "knn"])
    writer = Writer(measured, Page(alpha=0.1, delta=0.1))
    scored = writer.scored("msp")
    assert scored.gate is not None
    assert scored.lost == {"noisy": (measured.shifted_scores["noisy"]["msp"] > scored.gate.threshold).mean()}
    text, spectrum = writer.write(), measured.evaluation.full_spectrum
    assert spectrum is not None
    lost, full = (re.search(rf'data-metric="{slug}"><table>(.*?)</table>', text, re.DOTALL) for slug in ("lost", "auroc_full"))
    assert lost is not None
    assert full is not None
    assert re.search(rf">noisy<small>{100 * spectrum.shifted_sets['noisy'].accuracy:.1f} % right, {len(targets.id_test)}</small>", lost[1])
    assert f">{100 * scored.lost['noisy']:.2f}</td>" in lost[1]
    assert f">{100 * spectrum.postprocessors['msp'].far.auroc:.2f}</td>" in full[1]
    assert "far*<small>mean" in full[1]
    assert "far*" not in text.replace(full[1], "")
    assert "gone is absent, 0 of 2,000 pictures" in text


def test_too_few_calibration_pictures_leave_the_page_without_thresholds(trained_run: Path, targets: Targets) -> None:
    measured = measure(trained_run, load_trained(trained_run), targets, ["msp", "knn"])
    text = Writer(measured, Page(alpha=0.001)).write()
    assert "There is no threshold: too few calibration pictures for alpha 0.1 %" in text
    assert "caught at alpha" not in text


def test_the_hardest_pictures_are_the_strangest_good_ones_and_the_most_usual_others(trained_run: Path, targets: Targets) -> None:
    measured = measure(trained_run, load_trained(trained_run), targets, ["msp"])
    good, mixtures = Gallery(measured).strips("msp", None)
    assert (good.name, mixtures.name) == ("", "mixtures")
    assert [picture.p_value for picture in good.thumbnails] == sorted(picture.p_value or 0 for picture in good.thumbnails)
    assert [picture.p_value for picture in mixtures.thumbnails] == sorted((picture.p_value or 0 for picture in mixtures.thumbnails), reverse=True)


def test_a_report_takes_scores_separated_by_commas(trained_run: Path, mixtures: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    main(["report", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "msp,mls", "ebo", "--out", str(file)])
    assert re.findall(r'<button data-choose="(\w+)">', file.read_text()) == ["msp", "mls", "ebo"]


def test_a_gradient_score_is_not_reported(trained_run: Path, mixtures: Path) -> None:
    with pytest.raises(SystemExit, match=r"odin needs the gradient .* a report is drawn from features: it can only be evaluated"):
        main(["report", str(trained_run), "--far", f"mixtures={mixtures}", "--postprocessors", "odin"])


def test_a_report_needs_an_ood_set(trained_run: Path) -> None:
    with pytest.raises(SystemExit, match="no OOD set to report on; give --benchmark"):
        main(["report", str(trained_run)])


def test_a_report_with_a_search_is_drawn_with_what_it_chose(
    trained_run: Path, targets: Targets, mixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, choice = load_trained(trained_run), Choice(hyperparameters={"gamma": 0.5, "largest": 2}, auroc=1, tried=1)
    found = Search(id_images=1, ood_images=1, choices={"gen": choice})
    plain, searched = (measure(trained_run, trained, targets, ("gen",), chosen) for chosen in (None, found))
    assert searched.evaluation == evaluate(trained_run, trained, targets, ("gen",), found)
    assert not np.array_equal(plain.id_scores["gen"], searched.id_scores["gen"])
    words = ["--far", f"mixtures={mixtures}", "--postprocessors", "gen", "--search", "--ood-validation", str(mixtures)]
    main(["report", str(trained_run), *words, "--out", str(tmp_path / "page.html")])
    assert "gen: gamma" in capsys.readouterr().out
