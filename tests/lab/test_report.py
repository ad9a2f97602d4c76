"""The pages: what they say, that nothing foreign gets in, and how they lie on a screen."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.files import read_json, write_json
from jostle.lab import report, write_index, write_report
from jostle.lab.rooms import ROOMS

ROOM = ROOMS["universal"]


class _Page(HTMLParser):
    """The tags, links and words of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.links, self.open = set(), [], []
        self.feed(self.source)
        assert self.open == [], f"not closed: {self.open}"
        body = self.source.partition("</style>")[2]
        self.words = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "link", "img", "wbr") and not str(self.get_starttag_text()).endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _runs(root: Path) -> dict[str, Path]:
    return {read_json(p)["state"]: p.parent for p in root.glob("*/*/status.json")} | {
        "cut": sorted((root / "universal").iterdir())[3]
    }


def test_a_report_says_everything_in_order(gallery):
    folder = _runs(gallery)["finished"]
    page = _Page(write_report(folder, ROOM))
    order = [
        ROOM.title, ROOM.sentence, ROOM.paper, "arXiv:1801.08092", "quick", "1 min 23 s",
        "3 hold", "1 fails", "2 not tested", "Figure 1. An image before", "Figure 4. Sensitivity",
        "UNIV-C1", "69.24 % on CaffeNet", "41.3 % [38.3, 44.4]", "holds", "UNIV-C4", "fails",
        "UNIV-C5", "not tested at this scale", "must hold from preset paper",
        "Settings", "radius", "0.0392156862745098", "Environment", "packages / torch",
        "Metrics", "fooling / none / rate", "0.413", "3.200e-09", "1,500 values from -3 to 9",
        "artifacts/delta.safetensors",
    ]  # fmt: skip
    at = 0
    for piece in order:
        assert piece in page.words[at:], piece
        at = page.words.index(piece, at)
    assert "This run" not in page.words


def test_a_report_is_self_contained_and_its_links_lead_somewhere(gallery):
    write_index(gallery)
    pages = [gallery / "index.html", *gallery.glob("universal/*/report.html")]
    assert len(pages) == 5
    for path in pages:
        page = _Page(path)
        assert not page.tags & {"script", "iframe", "object"}
        assert "url(" not in page.source and "@import" not in page.source
        for link in page.links:
            if link.startswith("https://"):
                assert link in {f"https://arxiv.org/abs/{room.arxiv}" for room in ROOMS.values()}
            elif not link.startswith(("#", "data:,")):
                assert (path.parent / link).exists(), link


def test_what_users_write_is_escaped(gallery):
    page = _Page(write_report(_runs(gallery)["finished"], ROOM))
    assert "somewhere <b>or other</b>" in page.words
    assert "<b>or other" not in page.source
    failed = _Page(write_report(_runs(gallery)["failed"], ROOM))
    assert "the layer <conv_stem> needs 3 GB" in failed.words


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("failed", "This run failed: OutOfMemoryError"),
        ("interrupted", "This run was interrupted (stopped by hand); it can be resumed."),
        ("cut", "This run is not finished: it is still at work, or was cut off"),
    ],
)
def test_an_unfinished_run_says_so_before_its_settings(gallery, state, sentence):
    folder = _runs(gallery)[state]
    words = _Page(write_report(folder, ROOM)).words
    assert words.index(sentence) < words.index(f"jostle run --resume {folder}") < words.index("Settings")


def test_damaged_files_are_a_sentence_in_the_report_and_a_row_in_the_index(gallery):
    folder = _runs(gallery)["finished"]
    (folder / "claims.json").write_text("[{")
    with pytest.raises(JostleError, match=r"claims\.json is not valid JSON"):
        write_report(folder, ROOM)
    write_json(folder / "claims.json", {"a": 1})
    with pytest.raises(JostleError, match=r"claims\.json does not hold what a run writes there"):
        write_report(folder, ROOM)
    words = _Page(write_index(gallery)).words
    assert "unreadable This run cannot be read:" in words
    assert "jostle run universal" in words  # no finished run is left for the card


def test_the_index_has_a_card_a_method_and_a_row_a_run(gallery, toy):
    page = _Page(write_index(gallery))
    cards, _, rows = page.words.partition("All runs")
    assert "jostle run toy" in cards and "jostle run universal" not in cards
    assert ROOM.sentence in cards and "3 hold 1 fails 2 not tested" in cards
    assert re.search(r"quick · 1 min 23 s · \d+ \w+ \d{4}", cards)
    assert page.source.count("before-and-after.svg") == 1
    states = re.findall(r'class="state (\w+)"', page.source)
    assert sorted(states) == ["failed", "finished", "interrupted", "running"]
    assert "This run failed: OutOfMemoryError" in rows and "stopped by hand" in rows


def test_the_card_is_of_the_newest_finished_run(gallery):
    old = _runs(gallery)["finished"]
    new = old.with_name("99990101T000000-quick")
    shutil.copytree(old, new)
    environment = read_json(new / "environment.json")
    write_json(new / "environment.json", {**environment, "time": "9999-01-01T00:00:00+00:00"})
    source = write_index(gallery).read_text(encoding="utf-8")
    cards = source.partition("All runs")[0]
    assert f"universal/{new.name}/report.html" in cards and f"{old.name}/report.html" not in cards


def test_an_empty_root_shows_what_to_type(tmp_path):
    words = _Page(write_index(tmp_path / "none")).words
    assert "jostle run universal" in words and "All runs" not in words


def test_a_report_links_to_the_index_only_where_there_is_one(gallery):
    folder = _runs(gallery)["finished"]
    assert "../../index.html" not in _Page(write_report(folder, ROOM)).links
    write_index(gallery)
    assert "../../index.html" in _Page(folder / "report.html").links


def test_many_numbers_are_folded(gallery):
    folder = _runs(gallery)["finished"]
    assert "details" not in _Page(write_report(folder, ROOM)).tags
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {**result, "metrics": {"of": {f"layer {i}": i for i in range(61)}}})
    page = _Page(write_report(folder, ROOM))
    assert "details" in page.tags and "All 61 numbers" in page.words and "of / layer 60 60" in page.words


def test_numbers_are_formatted_for_people():
    assert report.readable([1.5, None, True, "a"]) == "1.5, —, yes, a"
    assert report.readable(123456.7) == "123,457"
    assert report.readable(0.1 + 0.2, exact=True) == "0.30000000000000004"
    assert report.readable(1.0e-12) == "1.000e-12"
    assert report.readable(list("abcdefghijk")) == "11 entries"
    assert report.readable([1, None] * 5) == "10 values from 1 to 1"
    assert list(report.flatten({"rows": [{"a": 1}, {"a": 2}]})) == [
        (("rows", "1", "a"), 1),
        (("rows", "2", "a"), 2),
    ]
    assert report.duration(59.7) == "1 min 0 s"


# A browser, where there is one.

_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--allow-file-access-from-files", "--virtual-time-budget=4000",
)  # fmt: skip


def _print(tmp_path: Path, page: Path) -> int:
    """The number of sheets that a page is printed on."""
    made = tmp_path / f"{page.stem}.pdf"
    command = [
        _BROWSER,
        *_FLAGS,
        f"--user-data-dir={tmp_path / 'user'}",
        f"--print-to-pdf={made}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return len(re.findall(rb"/Type /Page\b(?!s)", made.read_bytes()))


def _browse(tmp_path: Path, page: Path, width: int, scheme: str, *flags: str) -> str:
    # In a frame: a browser's own window cannot be as narrow as a telephone. The script is the frame's.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"""<!doctype html><meta name="color-scheme" content="light dark"><style>body{{margin:0}}</style>
        <iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:1600px"></iframe>
        <script>onload = () => {{
            const page = document.querySelector("iframe").contentDocument;
            const images = [...page.images].filter(i => i.complete && i.naturalWidth).length;
            document.title = [page.documentElement.scrollWidth, images, page.images.length].join(" ");
        }}</script>"""
    )
    command = [
        _BROWSER, *_FLAGS, f"--user-data-dir={tmp_path / 'user'}", f"--window-size={max(width, 500)},1600",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", *flags, frame.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.study
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("name", "width"),
    [("index", 1280), ("index", 375), ("finished", 1280), ("finished", 375), ("failed", 375)],
)
def test_a_page_fits_its_screen_and_shows_its_pictures(gallery, tmp_path, width, name):
    index = write_index(gallery)
    page = index if name == "index" else _runs(gallery)[name] / "report.html"
    dom = _browse(tmp_path, page, width, "light", "--dump-dom")
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dom)
    assert title is not None, dom
    scroll, shown, images = map(int, title.groups())
    assert scroll == width
    assert shown == images == {"index": 1, "finished": 4, "failed": 0}[name]


@pytest.mark.study
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 375])
def test_a_screenshot_is_light_or_dark_and_figures_stay_on_white(gallery, tmp_path, width):
    from PIL import Image

    write_index(gallery)
    page = _runs(gallery)["finished"] / "report.html"
    for scheme in ("light", "dark"):
        _browse(tmp_path, page, width, scheme, f"--screenshot={tmp_path / scheme}.png")
        shot = Image.open(tmp_path / f"{scheme}.png").convert("RGB").crop((0, 0, width, 1600))
        pixels = np.asarray(shot)
        assert (pixels[3, 3].min() > 200) == (scheme == "light")
        assert (pixels[3, 3].max() < 60) == (scheme == "dark")
        assert (pixels == 255).all(axis=2).mean() > 0.1


@pytest.mark.study
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium is installed")
def test_a_report_prints_on_few_sheets_and_its_folded_numbers_do_not(gallery, tmp_path):
    folder = _runs(gallery)["finished"]
    sheets = _print(tmp_path, write_report(folder, ROOM))
    assert 3 <= sheets <= 5, "four figures, two a sheet at the least, then claims, settings and numbers"
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {**result, "metrics": {f"layer {i}": i for i in range(2000)}})
    assert _print(tmp_path, write_report(folder, ROOM)) <= sheets
