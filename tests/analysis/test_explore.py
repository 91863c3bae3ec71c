"""The interactive page in a real browser: no errors, nothing fetched, filters that filter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.explore import MOST, section
from analysis.load import load
from analysis.page import render
from tests.analysis import synthetic
from tests.analysis.browser import Browser, browser
from tests.analysis.synthetic import Workload
from tests.analysis.test_page import HOSTILE

pytest.importorskip("plotly", reason="needs: plotly")

CHOOSE = """
for (const [name, value] of Object.entries(arguments[0])) {
  const control = document.getElementById("explore-" + name);
  const option = [...(control.options || [])].find((one) => one.text === value);
  control.value = option ? option.value : value;
  control.dispatchEvent(new Event("input"));
}
return document.getElementById("explore-count").textContent;
"""
POINTS = "return document.getElementById('explore-cloud').data.map((one) => one.x.length)"
NAMES = "return document.getElementById('explore-cloud').data.map((one) => one.name)"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def counted(said: str) -> tuple[int, int]:
    found = re.match(r"([\d,]+) of ([\d,]+) copyups", said)
    assert found is not None, said
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def choose(window: Browser, **controls: str) -> int:
    return counted(window.run(CHOOSE, controls))[0]


def test_filters_choose_what_they_say_and_nothing_is_fetched(
    tmp_path: Path, window: Browser
) -> None:
    made = synthetic.trace(tmp_path / "document", Workload(spans=1499))
    synthetic.trace(tmp_path / "fallthru", Workload(spans=997, metacopy=True))
    page = tmp_path / "page.html"
    page.write_text(render(load([tmp_path / "document", tmp_path / "fallthru"]), interactive=True))
    window.open(page)
    assert counted(window.run(CHOOSE, {})) == (2496, 2496)
    assert sum(window.run(POINTS)) == 2496
    assert sorted(window.run(NAMES)) == ["copy", "metacopy", "none"]
    comm, op, dur = (np.asarray(made[name]) for name in ("comm", "op", "dur"))
    assert choose(window, run="document") == 1499
    assert choose(window, process="sed") == int(np.sum(comm == "sed"))
    both = (comm == "python3") & (op == "openat")
    assert choose(window, process="python3", op="openat") == int(np.sum(both))
    slow = both & (dur >= 300_000)
    assert 0 < choose(window, least="300") == int(np.sum(slow))
    named = slow & np.array(["/man/" in path for path in made["path"]])
    assert choose(window, path="/man/") == int(np.sum(named)) == sum(window.run(POINTS))
    assert choose(window, path="no such file") == 0
    window.run("document.querySelector('#explore-form button').click()")
    assert choose(window, by="process") == 2496
    assert set(window.run(NAMES)) == set(synthetic.PROCESSES)
    for name in ("cloud", "shares", "heat", "tree"):
        drawn = f"return document.querySelectorAll('#explore-{name} .main-svg').length"
        assert window.run(drawn) > 0
    assert window.run("return performance.getEntriesByType('resource').length") == 0
    assert window.errors() == []
    assert window.screenshot().startswith(b"\x89PNG")


def test_hostile_names_stay_text_and_break_no_script(tmp_path: Path, window: Browser) -> None:
    made = synthetic.columns(Workload(spans=len(HOSTILE)))
    names = [*HOSTILE[:-1], "</script><script>document.title='owned'</script>"]
    made.update(dict.fromkeys(("path", "comm", "op"), names))
    synthetic.write(tmp_path / "one", made)
    page = tmp_path / "page.html"
    page.write_text(render(load(tmp_path / "one"), interactive=True))
    window.open(page)
    assert counted(window.run(CHOOSE, {})) == (len(HOSTILE), len(HOSTILE))
    assert window.run("return document.title").startswith("Copyup")
    assert window.run("return document.querySelectorAll('img, iframe').length") == 0
    assert window.errors() == []


def test_a_large_trace_is_sampled_and_says_so(tmp_path: Path) -> None:
    synthetic.trace(tmp_path / "one", Workload(spans=MOST * 2 + 7))
    markup, policy = section(load(tmp_path / "one"))
    assert f"of {MOST * 2 + 7:,}, the slowest among them" in markup
    found = re.search(r'id="explore-data">(.*?)</script>', markup, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    lengths = {len(values) for name, values in data.items() if name != "words"}
    assert len(lengths) == 1
    assert lengths.pop() <= MOST + 1000
    assert "unsafe" not in policy
