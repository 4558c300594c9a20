"""What two gates say of the same pictures: as a table of what changes, or as one page with thumbnails, which fetches nothing from anywhere."""

import base64
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageOps
from rich import markup
from rich.console import Console
from rich.table import Column, Table

from service.bundle.preprocess import FORMATS, to_rgb
from service.scoring import read

THUMBNAIL = 128
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .4rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
img { max-width: 128px; max-height: 128px; min-width: 64px; image-rendering: pixelated } .rejected { color: #b00020 } .accepted { color: #00662e }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Side:
    """What one of the two says of a picture."""

    label: str
    p_value: float
    rejected: bool

    @property
    def decision(self) -> str:
        return "rejected" if self.rejected else "accepted"


@dataclass(frozen=True)
class Compared:
    """One picture."""

    name: str
    now: Side
    candidate: Side

    @property
    def change(self) -> str | None:
        """None when both say the same."""
        if self.now.rejected != self.candidate.rejected:
            return f"newly {self.candidate.decision}"
        return "other label" if self.now.label != self.candidate.label else None


def summarise(compared: Sequence[Compared]) -> str:
    """One sentence: how many of how many are decided otherwise."""
    changes = Counter(entry.change for entry in compared)
    before, after = (sum(side.rejected for side in sides) for sides in ([entry.now for entry in compared], [entry.candidate for entry in compared]))
    return (
        f"{len(compared)} pictures: {changes['newly rejected']} newly rejected, {changes['newly accepted']} newly accepted, "
        f"{changes['other label']} with another label; rejected {before} now, {after} by the candidate"
    )


def print_table(compared: Sequence[Compared], now: str, candidate: str) -> None:
    """Only what changes. now, candidate: what each side is."""
    table = Table(Column("picture", overflow="fold"), "change", "label now", "candidate", "p-value now", "candidate")
    for entry in compared:
        if entry.change is not None:
            labels = (markup.escape(side.label) for side in (entry.now, entry.candidate))
            table.add_row(markup.escape(entry.name), entry.change, *labels, f"{entry.now.p_value:.4f}", f"{entry.candidate.p_value:.4f}")
    table.title, table.caption = markup.escape(f"{now} → {candidate}"), summarise(compared)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def page(compared: Sequence[Compared], now: str, candidate: str) -> str:
    """An HTML document: the summary, and a row with a thumbnail for each picture that changes."""
    rows = "\n".join(
        f'<tr><td><img src="{thumbnail(entry.name)}" alt=""></td><td>{escape(entry.name)}</td><td>{entry.change}</td>'
        f"{cell(entry.now)}{cell(entry.candidate)}</tr>"
        for entry in compared
        if entry.change is not None
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>oodgate replay</title><style>{STYLE}</style></head><body>
<h1>What would change</h1>
<p>Now: {escape(now)}.<br>Candidate: {escape(candidate)}.</p>
<p>{escape(summarise(compared))}.</p>
<table><thead><tr><th></th><th>picture</th><th>change</th><th>now</th><th>candidate</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


def cell(side: Side) -> str:
    return f'<td class="{side.decision}">{escape(side.label)}, {side.decision}<br>p = {side.p_value:.4f}</td>'


def thumbnail(name: str) -> str:
    """A data URL of the picture as people see it, at most THUMBNAIL pixels wide and high."""
    with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
        small = to_rgb(ImageOps.exif_transpose(image))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
