"""The matrix in its written forms, and the published one."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from overlay.cli.spec_matrix import write_pages
from overlay.spec import catalogue, coverage, matrix, page, results
from overlay.spec.runner import Result

CLAUSES = catalogue.load()
PUBLISHED = Path(__file__).parents[2] / "docs" / "conformance"
NASTY = "<script>&\"'|\x1b"


def result(number: int, status: str, target: str = "overlayfs", kernel: str = "6.1") -> Result:
    clause = CLAUSES[number]
    return Result(clause.id, target, kernel, status, "wanted", NASTY, clause.lines)


RESULTS = [result(0, "kept"), result(1, "departed"), result(2, "failed"), result(3, "not-run")]


def test_text_has_a_row_a_clause_a_letter_a_column_and_a_legend() -> None:
    other = [result(0, "failed", target="engine")]
    lines = matrix.as_text(matrix.build([*RESULTS, *other], CLAUSES))
    assert lines[0].split() == ["clause", "a", "b"]
    assert [line.split() for line in lines[1:5]] == [
        [CLAUSES[0].id, "✓", "✗"],
        [CLAUSES[1].id, "~"],
        [CLAUSES[2].id, "✗"],
        [CLAUSES[3].id, "–"],
    ]
    assert "a  overlayfs: 1 kept, 1 departed, 1 failed, 1 not-run" in lines


def test_columns_name_the_kernel_only_if_there_are_several() -> None:
    one = matrix.build(RESULTS, CLAUSES)
    assert [column.title for column in one.columns] == ["overlayfs"]
    two = matrix.build([*RESULTS, result(0, "kept", kernel="7.0")], CLAUSES)
    assert [column.title for column in two.columns] == ["overlayfs (6.1)", "overlayfs (7.0)"]
    assert two.counts(two.columns[1]) == Counter(kept=1)


def test_markdown_is_a_table_of_equal_rows() -> None:
    text = matrix.as_markdown(matrix.build(RESULTS, CLAUSES))
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {4}


class _Reader(HTMLParser):
    """What a page holds: its tags, the ids it has, the ids it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if name == "href":
                self.links.add((value or "").removeprefix("#"))


def test_the_page_has_a_section_a_clause_and_takes_nothing_for_markup() -> None:
    built = matrix.build(RESULTS, CLAUSES)
    text = page.as_html(built, coverage.stretches(CLAUSES))
    reader = _Reader()
    reader.feed(text)
    assert reader.tags["script"] == 0
    assert reader.ids == {*(clause.id for clause in CLAUSES[:4]), "coverage"}
    assert reader.links <= reader.ids
    for clause in CLAUSES[:4]:
        assert f"spec show {clause.id} " in text


def test_the_page_shows_the_steps_that_a_run_kept() -> None:
    with_steps = replace(RESULTS[0], steps="mkdir bottom\ncat <mnt/file\n#> <b>text</b>\n")
    built = matrix.build([with_steps, *RESULTS[1:]], CLAUSES)
    text = page.as_html(built, coverage.stretches(CLAUSES))
    assert "cat &lt;mnt/file\n#&gt; &lt;b&gt;text&lt;/b&gt;\n</pre>" in text
    assert text.count("No run kept its steps") == 3


KERNELS = ("6.12.9", "6.1.5 (uml)", "7.0.1", "6.1.7")


def test_a_cell_has_the_usual_status_and_the_kernels_that_differ() -> None:
    runs = [result(0, "kept", kernel=kernel) for kernel in KERNELS[1:]]
    runs += [result(0, "failed", kernel=KERNELS[0]), result(1, "not-run", kernel=KERNELS[0])]
    built = matrix.build([*runs, result(0, "kept", target="engine", kernel="7.0.1")], CLAUSES)
    assert built.kernels == ("6.1.5 (uml)", "6.1.7", "6.12.9", "7.0.1")
    assert [built.short(kernel) for kernel in built.kernels] == ["6.1 uml", "6.1", "6.12", "7.0"]
    assert built.statuses(CLAUSES[0], "overlayfs") == [("kept", ()), ("failed", ("6.12.9",))]
    assert built.statuses(CLAUSES[0], "engine") == [("kept", ())]
    assert built.statuses(CLAUSES[1], "engine") == []
    text = matrix.as_markdown(built)
    assert "| target | 6.1 uml | 6.1 | 6.12 | 7.0 |" in text
    assert f"| [{CLAUSES[0].id}](index.html#{CLAUSES[0].id}) | 118 | ✓ | ✓ ✗ (6.12) |" in text
    page_text = page.as_html(built, coverage.stretches(CLAUSES))
    assert "✗</span> <small>6.12</small></td></tr>" in page_text


def test_kernels_of_one_series_keep_their_whole_names() -> None:
    built = matrix.build([result(0, "kept", kernel=k) for k in ("6.1.5", "6.1.7")], CLAUSES)
    assert [built.short(kernel) for kernel in built.kernels] == ["6.1.5", "6.1.7"]


def test_what_is_published_names_no_private_kernel() -> None:
    """The kit leaves out what a builder appended to the version."""
    recorded = results.read(str(PUBLISHED / "results.json"))
    kernels = {each.kernel for each in recorded}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+( \(uml\))?", kernel) for kernel in kernels)


def test_the_published_page_is_what_its_results_and_the_catalogue_give(tmp_path: Path) -> None:
    recorded = results.read(str(PUBLISHED / "results.json"))
    write_pages(tmp_path, recorded, CLAUSES)
    for name in ("index.html", "matrix.md", "results.json"):
        assert (PUBLISHED / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8"), (
            f"fallthru spec matrix docs/conformance/results.json -o docs/conformance ({name})"
        )


def test_the_published_results_are_of_every_clause_and_name_their_kernel() -> None:
    recorded = results.read(str(PUBLISHED / "results.json"))
    targets = {recorded_result.target for recorded_result in recorded}
    assert {"engine", "kernel:document", "overlayfs", "unprivileged", "fuse-overlayfs"} <= targets
    by_target = {target: {r.id for r in recorded if r.target == target} for target in targets}
    assert all(judged == {clause.id for clause in CLAUSES} for judged in by_target.values())
    assert all(re.match(r"\d+\.\d+", recorded_result.kernel) for recorded_result in recorded)
    ours = {r.target for r in recorded if r.status == "failed"}
    assert ours <= {"fuse-overlayfs", "unionfs-fuse", "mergerfs"}


@pytest.mark.parametrize("status", ["kept", "departed", "failed", "not-run"])
def test_every_status_is_seen_in_the_published_page(status: str) -> None:
    assert f'class="{status}"' in (PUBLISHED / "index.html").read_text("utf-8")
