"""The page: complete, self-contained, and unmoved by hostile names."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import plots, stats, style
from analysis.load import load
from analysis.page import render
from analysis.panels import sample
from tests.analysis import synthetic
from tests.analysis.synthetic import Workload

HOSTILE = (
    "/<script>alert(1)</script>",
    '/"><img src=x onerror=alert(1)>',
    "/</style></svg><iframe src=//evil.example>",
    "/$\\frac{1}{0}$ and $unclosed",
    "/line\nbreak\ttab",
    "/\u202egnp.txt",
    "/日本語/ü/☃/𝔘",
    "/[red]rich[/red] markup",
    "/_leading",
    "/" + "long" * 200,
    "/&amp; &lt;",
    '/id="x" url(#p) #0072b2',
)
VOID = {"meta", "link", "img", "br", "hr", "input"}
#: Attributes by which a page can make a browser fetch something.
FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """What a browser would see: elements, attributes that fetch, identifiers, and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.titles: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open[-2:] == ["svg", "title"]:
            self.titles.append(data)
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page_of(directory: Path, *others: Path) -> tuple[str, Page]:
    html = render(load([directory, *others]), top=20)
    return html, Page(html)


def assert_self_contained(html: str, page: Page, scripts: int = 0) -> None:
    for tag, name, value in page.attributes:
        if name in FETCHING:
            assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value[:80])
        assert not name.startswith("on"), (tag, name)
        for target in re.findall(r"url\(([^)]*)\)", value):
            assert target.startswith("#"), (tag, name, value)
    assert not {"iframe", "object", "embed", "link", "base"} & set(page.tags)
    assert page.tags.count("script") == page.tags.count("form") == scripts
    style_block = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style_block
    assert "@import" not in style_block
    assert "default-src 'none'" in html


def assert_identifiers_are_unique_and_found(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name in ("href", "xlink:href") and value.startswith("#"):
            assert value[1:] in ids
        if name == "aria-labelledby":
            assert set(value.split()) <= set(ids)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Page]:
    """A trace of 997 files, and its page: making one takes seconds."""
    directory: Path = tmp_path_factory.mktemp("page") / "document"
    synthetic.trace(directory, Workload(spans=997))
    return directory, *page_of(directory)


def test_a_page_stands_alone_and_says_what_was_measured(document: tuple[Path, str, Page]) -> None:
    _, html, page = document
    assert_self_contained(html, page)
    assert "<script" not in html
    assert_identifiers_are_unique_and_found(page)
    for fact in ("6.18.0", "metacopy=off", "ext4 over ext4", "chown -R 7:7", "997", "synthetic"):
        assert fact in page.text
    assert "Not everything is here" not in page.text
    assert page.tags.count("svg") == page.tags.count("figure") == len(page.titles) == 10
    assert page.open == []  # every element is closed


def test_pictures_say_what_they_are_to_a_screen_reader(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=53))
    picture = plots.latency(load(tmp_path / "one").frame)
    root = ET.fromstring(style.svg(picture, "A <title>", "What & why", key="k"))
    svg = "{http://www.w3.org/2000/svg}"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "k-title k-desc"
    assert [(root[at].tag, root[at].attrib["id"]) for at in (0, 1)] == [
        (f"{svg}title", "k-title"),
        (f"{svg}desc", "k-desc"),
    ]
    assert (root[0].text, root[1].text) == ("A <title>", "What & why")
    texts = {element.text for element in root.iter(f"{svg}text")}
    assert {"file size", "time", "copy"} <= texts
    assert any(text and text.endswith("µs") for text in texts)
    assert any(text and text.endswith("KiB") for text in texts)


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    made = synthetic.columns(Workload(spans=len(HOSTILE)))
    made.update({key: list(HOSTILE) for key in ("path", "comm", "op", "mount", "cgroup")})
    hostile_mount = {HOSTILE[0]: {"options": HOSTILE[1], "top": HOSTILE[2], "bottoms": [None]}}
    changes = {"mounts": hostile_mount, "command": list(HOSTILE), "hostname": HOSTILE[1]}
    directory = tmp_path / "<b onclick=alert(1)>run"
    synthetic.write(directory, made, changes=changes)
    synthetic.write(tmp_path / "other", made)
    html, page = page_of(directory, tmp_path / "other")
    assert_self_contained(html, page)
    assert_identifiers_are_unique_and_found(page)
    assert "b" not in [tag for tag, name, _ in page.attributes if name == "onclick"]
    assert "img" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in html
    assert "line\\x0abreak\\x09tab" in page.text
    assert "日本語" in page.text
    assert "$\\frac{1}{0}$ and $unclosed" in page.text
    assert 'id="x" url(#p) #0072b2' in page.text


def test_what_is_lost_stands_at_the_top(tmp_path: Path) -> None:
    changes = {"lost": 1234, "unmatched": 7, "ended_ns": None}
    parts = synthetic.write(
        tmp_path / "one", synthetic.columns(Workload(spans=90)), parts=3, changes=changes
    )
    Path(parts[0]).write_bytes(b"gone")
    html, page = page_of(tmp_path / "one")
    warning = html[html.index('class="warning"') : html.index('class="runs"')]
    assert "1,234 events were lost" in warning
    assert "7 copyups were seen but not completed" in warning
    assert "it was cut off" in warning
    assert "part-00000.parquet" in warning
    assert_self_contained(html, page)


@pytest.mark.parametrize("what", ["nothing", "directories", "no phases", "one span", "no paths"])
def test_thin_traces_give_a_sensible_page(tmp_path: Path, what: str) -> None:
    made: dict[str, Any] = synthetic.columns(Workload(spans=0 if what == "nothing" else 13))
    if what == "directories":
        made.update(ftype=["dir"] * 13, size=[0] * 13, bytes=[0] * 13, how=["none"] * 13)
    elif what == "no phases":
        made.update(dict.fromkeys(("create", "data", "sync", "meta", "link"), [None] * 13))
        made.update(bytes=[None] * 13, how=[None] * 13)
    elif what == "one span":
        made = synthetic.columns(Workload(spans=1))
    elif what == "no paths":
        made["path"] = [None] * 13
        made["mount"] = [None] * 13
    synthetic.write(tmp_path / "one", made)
    if what == "one span":
        made["path"] = [f"/elsewhere{path}" for path in made["path"]]
    synthetic.write(tmp_path / "two", made)
    pair = (tmp_path / "two",)
    alone = what in ("directories", "no paths")
    for others in ((), pair) if what == "nothing" else ((),) if alone else (pair,):
        html, page = page_of(tmp_path / "one", *others)
        assert_self_contained(html, page)
        assert_identifiers_are_unique_and_found(page)
        assert "nan" not in page.text.lower().split()
        assert ("They did different work" in page.text) is (what == "one span")
        if what == "nothing":
            assert "No copyup was recorded" in page.text
            assert page.tags.count("svg") == len(others)


def test_two_runs_are_compared_in_time_bytes_and_ratio(tmp_path: Path) -> None:
    before = synthetic.trace(tmp_path / "document", Workload(spans=997))
    after = synthetic.trace(tmp_path / "fallthru", Workload(spans=997, metacopy=True))
    first, second = (int(np.sum(made["dur"])) for made in (before, after))
    html, page = page_of(tmp_path / "document", tmp_path / "fallthru")
    assert_self_contained(html, page)
    assert_identifiers_are_unique_and_found(page)
    part = html[html.index('id="comparison"') : html.index('id="run-0"')]
    assert f"{first / second:.1f}× less" in part
    assert f"{(first - second) / 1e6:.0f} ms" in part
    assert "997 files were copied up in both runs" in part
    assert "different work" not in part
    assert {"comparison", "run-0", "run-1"} <= {
        value for _, name, value in page.attributes if name == "id"
    }


def test_the_same_trace_gives_the_same_page(document: tuple[Path, str, Page]) -> None:
    directory, html, _ = document
    assert page_of(directory)[0] == html


def test_many_copyups_keep_the_page_small(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=100_003))
    trace = load(tmp_path / "one")
    picture = style.svg(plots.latency(trace.frame), "t", "d", key="k")
    assert len(picture) < 400_000
    assert "data:image/png;base64," in picture
    slowest = stats.copyups(trace.frame).nlargest(100, "dur")
    assert set(slowest.index) <= set(sample(trace.frame).index)


def test_every_picture_is_a_png_too(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=97))
    data = style.png(plots.timeline(load(tmp_path / "one").frame))
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1160  # the width that suits 1200 pixels
