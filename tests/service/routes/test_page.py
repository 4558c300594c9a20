"""The page at /, asked by a real browser."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from service.__main__ import main
from tests.bundles import id_png, ood_png, pixels, png, write_bundle
from tests.servers import serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,1400"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Named, because selenium would otherwise fetch a driver.
    with Chrome(options, Service(shutil.which("chromedriver"))) as driver:
        yield driver


@pytest.fixture
def page(browser: Chrome, client: httpx.Client) -> Iterator[Chrome]:
    """The page of a ready server, which ends without a complaint of the browser but for answers that are errors."""
    browser.get(str(client.base_url))
    wait(browser, lambda: text(browser, "promise"))
    yield browser
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert [line for line in said if "the server responded with a status of" not in line] == []


def wait(browser: Chrome, until: Callable[[], object]) -> None:
    WebDriverWait(browser, 20).until(lambda _: until())


def text(browser: Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def choose(browser: Chrome, name: str, value: str) -> None:
    Select(browser.find_element(By.ID, name)).select_by_visible_text(value)


def give(browser: Chrome, *pictures: Path) -> list[WebElement]:
    """The cards of these pictures, once all are answered."""
    browser.find_element(By.ID, "files").send_keys("\n".join(map(str, pictures)))
    cards = browser.find_elements(By.CSS_SELECTOR, "#answers > li")[: len(pictures)]
    wait(browser, lambda: all(card.get_attribute("class") for card in cards))
    return cards


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    found = {"good": id_png(), "strange": ood_png(), "broken": b"no picture"}
    for name, content in found.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in found}


def test_it_fetches_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/page.css", "/page.js"):
        answer = client.get(path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert not re.search(r"//\w", answer.text)


def test_the_documentation_is_drawn_without_a_content_delivery_network(page: Chrome, client: httpx.Client) -> None:
    page.find_element(By.LINK_TEXT, "API").click()
    wait(page, lambda: any("/predict" in block.text for block in page.find_elements(By.CLASS_NAME, "opblock")))
    asked = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert asked
    assert all(address.startswith((str(client.base_url), "data:")) for address in asked)


def test_it_shows_class_p_value_and_verdict_of_each_picture_as_the_server_tells_them(
    page: Chrome, client: httpx.Client, pictures: dict[str, Path]
) -> None:
    good, strange, broken = give(page, pictures["good"], pictures["strange"], pictures["broken"])
    told = [client.post("/predict", content=pictures[name].read_bytes()).json()["predictions"][0] for name in ("good", "strange")]
    assert [card.get_attribute("class") for card in (good, strange, broken)] == ["accepted", "rejected", "refused"]
    assert [prediction["ood"]["rejected"] for prediction in told] == [False, True]
    assert f"{told[0]['label']}\nAccepted by knn at alpha 0.05; " in good.text
    assert f"I don’t know\nRejected by knn at alpha 0.05. Made to choose: {told[1]['label']}, " in strange.text
    for card, prediction in zip((good, strange), told, strict=True):
        assert f"p = {prediction['ood']['p_value']:.2g}" in card.text
        assert all(entry["label"] in card.find_element(By.TAG_NAME, "dl").text for entry in prediction["top_k"])
    assert "Not answered\nthe 10 bytes are none of the accepted formats" in broken.text
    assert text(page, "tally") == "1 accepted, 1 rejected, 1 refused"


def test_a_mark_left_of_the_red_end_is_a_picture_that_is_rejected(page: Chrome, pictures: dict[str, Path]) -> None:
    for card in give(page, pictures["good"], pictures["strange"]):
        end, mark = (card.find_element(By.CLASS_NAME, name).rect for name in ("rejecting", "mark"))
        assert (mark["x"] < end["x"] + end["width"]) == (card.get_attribute("class") == "rejected")


def test_score_and_alpha_are_chosen_among_those_that_promise_something(page: Chrome, client: httpx.Client, pictures: dict[str, Path]) -> None:
    assert text(page, "promise") == "Promised: with 95% confidence at most 5% of good pictures are rejected. Expected: 3.89%."
    choose(page, "postprocessor", "ebo")
    page.find_element(By.TAG_NAME, "summary").click()
    assert text(page, "sets") == "good ones 4%\nblack 97%"
    choose(page, "alpha", "0.01")
    assert text(page, "promise").startswith("Promised: with 95% confidence at most 1% ")
    assert not page.find_element(By.ID, "measured").is_displayed()
    (card,) = give(page, pictures["good"])
    told = client.post("/predict", content=pictures["good"].read_bytes(), params={"postprocessor": "ebo", "alpha": 0.01}).json()
    assert "Accepted by ebo at alpha 0.01" in card.text
    assert f"p = {told['predictions'][0]['ood']['p_value']:.2g}" in card.text


def test_the_truth_about_a_picture_is_told_as_feedback(page: Chrome, client: httpx.Client, pictures: dict[str, Path]) -> None:
    (card,) = give(page, pictures["good"])
    said = card.find_element(By.TAG_NAME, "output")

    def images() -> tuple[int, int]:
        rates = client.get("/models/tiny").json()["monitor"]["feedback"]
        return rates["false_reject"]["images"], rates["missed_ood"]["images"]

    before = images()
    card.find_element(By.CSS_SELECTOR, "button[type=button]").click()
    wait(page, lambda: said.text == "counted")
    assert images() == (before[0], before[1] + 1)
    card.find_element(By.TAG_NAME, "input").send_keys("mauve")
    card.find_element(By.CSS_SELECTOR, "button:not([type])").click()
    wait(page, lambda: said.text.startswith("label 'mauve' is no class of tiny"))
    card.find_element(By.TAG_NAME, "input").clear()
    card.find_element(By.TAG_NAME, "input").send_keys("red")
    card.find_element(By.CSS_SELECTOR, "button:not([type])").click()
    wait(page, lambda: said.text == "counted")
    assert images() == (before[0] + 1, before[1])


def test_where_keys_are_needed_it_asks_for_one(browser: Chrome, models_dir: Path, pictures: dict[str, Path]) -> None:
    with serving(models_dir, api_keys="clé-ключ") as client:
        browser.get(str(client.base_url))
        field = browser.find_element(By.ID, "key")
        wait(browser, field.is_displayed)
        assert text(browser, "notice").startswith("a key is needed")
        field.send_keys("clé-ключ\t")
        wait(browser, lambda: text(browser, "promise"))
        assert not browser.find_element(By.ID, "notice").is_displayed()
        (card,) = give(browser, pictures["good"])
        assert card.get_attribute("class") == "accepted"


def test_of_several_versions_the_chosen_one_answers(browser: Chrome, tmp_path: Path, pictures: dict[str, Path]) -> None:
    for version in (1, 2):
        write_bundle(tmp_path, version=version, images=100)
    with serving(tmp_path, loaded_versions=2) as client:
        browser.get(str(client.base_url))
        wait(browser, lambda: text(browser, "promise"))
        assert text(browser, "model").split("\n") == ["tiny 1", "tiny 2"]
        choose(browser, "model", "tiny 1")
        give(browser, pictures["good"])
        assert 'predictions_total{decision="accepted",model="tiny",postprocessor="knn",version="1"} 1.0' in client.get("/metrics").text


def test_with_thresholds_of_their_own_classes_have_no_promise_and_no_scale_in_common(browser: Chrome, tmp_path: Path) -> None:
    write_bundle(tmp_path / "models")
    (tmp_path / "new").mkdir()
    for place, image in enumerate(pixels(300, 8)):
        (tmp_path / "new" / f"{place:03}.png").write_bytes(png(image))
    calibrate = ["calibrate", "--models-dir", str(tmp_path / "models"), "--device", "cpu", "--per-class", str(tmp_path / "new")]
    assert main(calibrate) == 0
    with serving(tmp_path / "models") as client:
        browser.get(str(client.base_url))
        wait(browser, lambda: text(browser, "promise"))
        assert text(browser, "promise").startswith("Promised for each class with its own threshold, and for the others together: ")
        (card,) = give(browser, tmp_path / "new/000.png")
        assert re.search(r"of calibration pictures taken for (red|green|blue) are at least as strange", card.text)
        assert not card.find_element(By.CLASS_NAME, "scale").is_displayed()
        choose(browser, "alpha", "0.02")
        assert text(browser, "promise").startswith("Promised: with 95% confidence at most 2% ")


def test_pictures_that_come_together_are_judged_by_what_was_chosen_when_they_came(
    page: Chrome, client: httpx.Client, pictures: dict[str, Path]
) -> None:
    page.find_element(By.ID, "files").send_keys("\n".join([str(pictures["good"])] * 12))
    choose(page, "alpha", "0.01")
    wait(page, lambda: text(page, "tally") == "12 accepted")
    assert [line.text for line in page.find_elements(By.CLASS_NAME, "verdict") if "at alpha 0.05" not in line.text] == []


def test_it_fits_a_telephone(page: Chrome, pictures: dict[str, Path]) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True})
    try:
        give(page, pictures["good"], pictures["strange"])
        assert page.execute_script("return document.documentElement.scrollWidth") == 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
