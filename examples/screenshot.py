r"""A picture of a page, taken by Chromium: of a file, or of a running server's, given pictures first.

    python examples/screenshot.py runs/cifar10-elogitnorm/report.html examples/report.png
    python examples/screenshot.py http://127.0.0.1:8000/ examples/page.png --width 900 --height 1060 \
        --give examples/street-view-character.png examples/cat.png
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("page", help="file or http address")
parser.add_argument("picture", type=Path)
parser.add_argument("--give", type=Path, nargs="+", default=[], help="pictures to ask the server's page about")
parser.add_argument("--width", type=int, default=1240)
parser.add_argument("--height", type=int, default=1480)
arguments = parser.parse_args()
driver = shutil.which("chromedriver")
if driver is None:
    parser.error("chromedriver is not installed")
options = ChromeOptions()
for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={arguments.width},{arguments.height}"):
    options.add_argument(flag)
with Chrome(options, Service(driver)) as browser:
    browser.get(arguments.page if "://" in arguments.page else Path(arguments.page).absolute().as_uri())
    if arguments.give:
        patience = WebDriverWait(browser, 20)
        patience.until(lambda _: browser.find_element(By.ID, "promise").text)
        browser.find_element(By.ID, "files").send_keys("\n".join(str(path.absolute()) for path in arguments.give))
        patience.until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, "#answers > li[class]")) == len(arguments.give))
    shot = browser.get_screenshot_as_png()
# Flat colours: a palette of 256 keeps the file small.
with Image.open(io.BytesIO(shot)) as image:
    image.convert("RGB").quantize(256).save(arguments.picture, optimize=True)
