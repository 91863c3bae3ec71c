"""A fleet's page: self-contained, unmoved by hostile names; its table asked in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from analysis import fleet, fleetpage
from tests.analysis import synthetic
from tests.analysis.browser import Browser, browser
from tests.analysis.commands import Fallthru
from tests.analysis.synthetic import Workload
from tests.analysis.test_page import (
    HOSTILE,
    Page,
    assert_identifiers_are_unique_and_found,
    assert_self_contained,
)

HOSTS = {"web1": 503, "web2": 211, "db1": 307}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of each; the second of web1 waits twice as long, and web2 lost events."""
    place: Path = tmp_path_factory.mktemp("hosts")
    for number, (host, spans) in enumerate(HOSTS.items()):
        for run in (1, 2):
            slow = host == "web1" and run == 2
            work = Workload(spans, seed=number, sync_ns=300_000 if slow else 150_000)
            changes = {"lost": 3} if host == "web2" else {}
            made = synthetic.columns(work)
            synthetic.write(place / f"host={host}" / f"run={run}", made, changes=changes)
    return place


CHOOSE = """
for (const [name, value] of Object.entries(arguments[0])) {
  const control = document.getElementById("hosts-" + name);
  control.value = value;
  control.dispatchEvent(new Event("input"));
}
return [...document.querySelectorAll("#hosts tbody tr")].filter((row) => row.checkVisibility())
  .map((row) => row.cells[0].textContent);
"""
SORT = """
[...document.querySelectorAll("#hosts thead button")]
  .find((one) => one.textContent === arguments[0]).click();
"""


def choose(window: Browser, **controls: str) -> list[str]:
    shown: list[str] = window.run(CHOOSE, controls)
    assert window.run("return document.getElementById('hosts-count').textContent") == (
        f"{len(shown)} of {len(HOSTS)} hosts"
    )
    return shown


def test_hosts_are_chosen_and_sorted(hosts: Path, tmp_path: Path, fallthru: Fallthru) -> None:
    page = tmp_path / "page.html"
    done = fallthru("fleet", hosts, "-o", page, "--by", "op")
    assert done.returncode == 0, done.stderr
    assert f"The page is {page}" in done.stdout
    found = fleet.survey(hosts, "host").summarise("host")
    with browser(tmp_path) as window:
        window.open(page)
        assert choose(window) == list(found.index)
        assert set(choose(window, name="WEB")) == {"web1", "web2"}
        assert choose(window, name="", state="incomplete") == ["web2"]
        assert set(choose(window, state="whole")) == {"web1", "db1"}
        limit = sorted(found["p99"])[1]
        slowest = set(found.index[found["p99"] >= limit])
        assert set(choose(window, state="", least=f"{limit.value / 1e3}")) == slowest
        window.run("document.querySelector('#hosts-form button').click()")
        for column, by in (("p50", "p50"), ("data", "bytes"), ("copyups", "spans")):
            window.run(SORT, column)
            assert choose(window, least="") == list(found.sort_values(by, ascending=False).index)
        window.run(SORT, "copyups")
        assert choose(window) == list(found.sort_values("spans").index)
        window.run(SORT, "host")
        assert choose(window) == sorted(HOSTS)
        assert window.run("return performance.getEntriesByType('resource').length") == 0
        assert window.errors() == []


def test_it_stands_alone_and_says_what_was_measured(hosts: Path) -> None:
    found = fleet.survey(hosts, ["host", "op"])
    html = fleetpage.render([found], [("host",), ("op",)])
    page = Page(html)
    assert_self_contained(html, page, scripts=1)
    assert_identifiers_are_unique_and_found(page)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; img-src data:" in html
    for fact in ("3 hosts", "2,042", "12", "events lost", "By system call", "within 0.1%"):
        assert fact in page.text
    assert page.text.count("3 events were lost") == 2
    assert page.open == []


def test_two_surveys_are_compared(hosts: Path, tmp_path: Path, fallthru: Fallthru) -> None:
    page = tmp_path / "page.html"
    pair = (f"{hosts}/*/run=1", f"{hosts}/*/run=2")
    done = fallthru("fleet", "--compare", *pair, "-o", page, "--by", "process", "--fail-above", "2")
    assert done.returncode == 0, done.stderr
    html = page.read_text()
    read = Page(html)
    assert_self_contained(html, read, scripts=1)
    assert_identifiers_are_unique_and_found(read)
    rows = dict(re.findall(r'<tr data-state="(\w+)"[^>]*><th[^>]*>(\w+)</th>', html))
    assert rows["slower"] == "web1"
    assert "after against before" in read.text
    assert "Typical time by process" in read.text
    assert fallthru("fleet", hosts, "-o", tmp_path / "no" / "page.html").returncode != 0


def test_hostile_hosts_are_only_text(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        made = synthetic.columns(Workload(spans=13))
        made["op"] = [name] * 13
        synthetic.write(tmp_path / str(number), made, changes={"hostname": name, "lost": 1})
    found = fleet.survey(tmp_path, ["host", "op"])
    for surveys in ([found], [found, found]):
        html = fleetpage.render(surveys, [("op",)], top=20)
        page = Page(html)
        assert_self_contained(html, page, scripts=1)
        assert_identifiers_are_unique_and_found(page)
        assert "img" not in page.tags
        assert "<script>alert(1)</script>" in page.text
        assert "\u202e" not in html
