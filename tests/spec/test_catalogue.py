"""The catalogue is well-formed, complete, and says each thing once."""

from __future__ import annotations

import pytest

from overlay.errors import UsageError
from overlay.spec import catalogue
from overlay.spec.checks import all_checks
from overlay.spec.observe import ASPECTS

CLAUSES = catalogue.load()


def test_every_clause_has_a_check_and_every_check_a_clause() -> None:
    assert {clause.id for clause in CLAUSES} == all_checks().keys()


def test_lines_are_in_the_document_and_ascend() -> None:
    for clause in CLAUSES:
        assert clause.lines, clause.id
        for lines in clause.lines:
            first, _, last = lines.partition("-")
            assert 1 <= int(first) <= int(last or first) <= 708, clause.id


@pytest.mark.parametrize(("first", "last"), [(118, 130), (332, 337), (341, 345)])
def test_every_row_of_the_documents_tables_is_held(first: int, last: int) -> None:
    held: set[int] = set()
    for clause in CLAUSES:
        for lines in clause.lines:
            start, _, end = lines.partition("-")
            held |= set(range(int(start), int(end or start) + 1))
    assert set(range(first, last + 1)) <= held


def test_no_two_clauses_say_the_same() -> None:
    said = [clause.statement.casefold().rstrip(".") for clause in CLAUSES]
    assert len(set(said)) == len(said) >= 45


def test_departures_are_reasoned_and_name_known_aspects() -> None:
    departures = [departure for clause in CLAUSES for departure in clause.departures]
    assert departures
    for departure in departures:
        assert departure.why.endswith("."), departure
        assert departure.source, departure
        assert departure.differs or departure.fuzz or departure.leaves_out, departure
        assert {aspect for aspect, _ in departure.differs} <= ASPECTS - {"bottom"}, departure


def clause_text(**changes: str) -> str:
    fields = {
        "id": '"topic.rule"',
        "lines": '["1", "2-3"]',
        "statement": '"S."',
        "status2010": '"Works."',
        "check": '"C."',
    } | changes
    return "[[clause]]\n" + "\n".join(f"{key} = {value}" for key, value in fields.items() if value)


def test_intended_defaults_to_the_statement() -> None:
    (clause,) = catalogue.parse(clause_text())
    assert clause.intended == "S."
    assert clause.lines == ("1", "2-3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lines": '["709"]'}, "not in the document"),
        ({"lines": '["0"]'}, "not in the document"),
        ({"lines": '["5-4"]'}, "not in the document"),
        ({"lines": '["five"]'}, "not a line range"),
        ({"check": ""}, "missing"),
        ({"note": '"x"'}, "unknown"),
        ({"id": '"Topic Rule"'}, "form topic.rule"),
        (
            {
                "departs": '[{target="*", why="W.", source="S", differs={bottom="*"}}]',
            },
            "nothing may change the bottom",
        ),
    ],
)
def test_a_malformed_clause_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalogue.parse(clause_text(**changes))


def test_two_clauses_with_one_statement_are_refused() -> None:
    text = clause_text() + "\n" + clause_text(id='"topic.other"', check='"D."')
    with pytest.raises(ValueError, match="same statement"):
        catalogue.parse(text)


def test_a_departure_concerns_targets_by_name_and_features() -> None:
    departs = (
        '[{target="kernel:*", features=["overlayfs", "!metacopy"], why="W.", source="S",'
        ' differs={view="*: EPERM"}}]'
    )
    (clause,) = catalogue.parse(clause_text(departs=departs))
    assert clause.departures_of("kernel:document", frozenset({"overlayfs"}))
    assert not clause.departures_of("kernel:document", frozenset())
    assert not clause.departures_of("kernel:x", frozenset({"overlayfs", "metacopy"}))
    assert not clause.departures_of("overlayfs", frozenset({"overlayfs"}))


def test_departures_grouped_by_reason_are_added_to_their_clauses() -> None:
    clauses = catalogue.parse(clause_text())
    group = """
        [[departs]]
        target = "some-fs"
        why = "W."
        source = "S"
        clauses."topic.rule" = { view = "*: EPERM" }
    """
    (clause,) = catalogue.with_departures(clauses, group)
    assert clause.departures_of("some-fs", frozenset())
    assert not clauses[0].departures
    with pytest.raises(ValueError, match="no clause"):
        catalogue.with_departures(clauses, group.replace("topic.rule", "topic.other"))
    with pytest.raises(ValueError, match="nothing may change the bottom"):
        catalogue.with_departures(clauses, group.replace("view =", "bottom ="))


def test_select_by_pattern() -> None:
    chosen = catalogue.select(CLAUSES, ["example.*", "atime.top"])
    assert {clause.id.split(".")[0] for clause in chosen} == {"example", "atime"}
    assert catalogue.select(CLAUSES, []) == CLAUSES
    with pytest.raises(UsageError, match=r"no clause matches 'nothing\.\*'"):
        catalogue.select(CLAUSES, ["nothing.*"])
