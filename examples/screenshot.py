"""A picture of a page, taken by chromium: `python examples/screenshot.py report.html report.png`."""

import argparse
import shutil
import subprocess
from pathlib import Path

from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("page", type=Path)
parser.add_argument("picture", type=Path)
parser.add_argument("--width", type=int, default=1240)
parser.add_argument("--height", type=int, default=1480)
arguments = parser.parse_args()
browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if browser is None:
    parser.error("chromium is not installed")
size = f"--window-size={arguments.width},{arguments.height}"
flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, f"--screenshot={arguments.picture.absolute()}"]
subprocess.run([browser, *flags, arguments.page.absolute().as_uri()], check=True, capture_output=True)
# Flat colours: a palette of 256 keeps the file small.
with Image.open(arguments.picture) as shot:
    shot.convert("RGB").quantize(256).save(arguments.picture, optimize=True)
