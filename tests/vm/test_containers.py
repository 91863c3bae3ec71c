"""Unions that docker, podman and containerd mount: seen, and named as these name their containers.

They are Debian's, with runc and crun, in a guest of their own for each set of engines; what they
did there, and what the tracer made of it, is seen once (containers_job.py), and the tests look
it up.
"""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

import pytest

from tests.vm.containers_job import LONGEST, SIZES
from tests.vm.engines import SETS
from tests.vm.guests import in_fresh_guest

pytestmark = pytest.mark.timeout(LONGEST + 700)

#: Where containerd mounts is no matter of the kernel, so once is enough.
GUESTS = [
    ("debian-6.1", "of Debian 12"),
    ("debian-6.12", "of Debian 12"),
    ("debian-6.12", "with containerd"),
]


@pytest.fixture(scope="module", params=GUESTS, ids=" ".join)
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    if os.environ.get("FALLTHRU_VM") != "all":
        pytest.skip("needs: FALLTHRU_VM=all to run containers in guests, because it takes minutes")
    kernel, kind = request.param
    job = f"PYTHONPATH=. exec python3 -m tests.vm.containers_job {shlex.quote(kind)}"
    done = in_fresh_guest(kernel, "sh", "-c", job, seconds=LONGEST, engines=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert list(answer["engines"]) == list(SETS[kind])
    return answer


@pytest.fixture(params=[0, 1], ids=["one", "other"])
def engine(told: dict[str, Any], request: pytest.FixtureRequest) -> str:
    """The name of one of the set."""
    name: str = list(told["engines"])[request.param]
    return name


def files(recorded: dict[str, Any], container: str) -> list[tuple[Any, ...]]:
    """The regular files that processes of the container copied up."""
    return [
        (span["path"], span["bytes"], span["op"])
        for span in recorded["spans"]
        if span["container"] == container and span["ftype"] == "file"
    ]


def test_a_container_that_was_there(told: dict[str, Any], engine: str) -> None:
    about = told["engines"][engine]
    everybody = told["everybody"]
    assert files(everybody, engine) == [
        ("/data/two", SIZES["two"], "openat"),
        ("/data/three", SIZES["three"], "chmod"),
    ]
    spans = [span for span in everybody["spans"] if span["container"] == engine]
    assert {span["mount"] for span in spans} == {about["mount"]}
    assert all(about["id"] in span["cgroup"] for span in spans)
    assert everybody["metadata"]["mounts"][about["mount"]]["container"] == engine


def test_one_that_came_and_went_meanwhile(told: dict[str, Any], engine: str) -> None:
    """Its engine knows nothing of it any more when the recording ends."""
    name = f"late-{engine}"
    everybody = told["everybody"]
    assert files(everybody, name) == [("/data/five", SIZES["five"], "openat")]
    spans = [span for span in everybody["spans"] if span["container"] == name]
    ((place, union),) = [
        (place, union)
        for place, union in everybody["metadata"]["mounts"].items()
        if union.get("container") == name
    ]
    assert {span["mount"] for span in spans} == {place}
    assert all(told["late"][engine] in span["cgroup"] for span in spans)
    (span,) = [span for span in spans if span["ftype"] == "file"]
    assert union["mounted_ns"] < span["ts"] < union["unmounted_ns"]


def test_all_that_was_copied_up_is_some_containers(told: dict[str, Any]) -> None:
    everybody = told["everybody"]
    assert everybody["metadata"]["lost"] == 0
    names = [span["path"] for span in everybody["spans"] if span["ftype"] == "file"]
    assert sorted(names) == sorted(2 * ["/data/two", "/data/three", "/data/five"])
    lines = [line.split("\t") for line in told["text"].splitlines()]
    shown = {(line[-2], line[-1].rpartition("/")[2]) for line in lines if "file" in line}
    assert shown == {
        *((engine, name) for engine in told["engines"] for name in ("two", "three")),
        *((f"late-{engine}", "five") for engine in told["engines"]),
    }


def test_one_container_by_name(told: dict[str, Any]) -> None:
    """What the other engine's does meanwhile is not recorded."""
    one = next(iter(told["engines"]))
    spans = told["one's"]["spans"]
    assert files(told["one's"], one) == [("/data/seven", SIZES["seven"], "openat")]
    assert {span["container"] for span in spans} == {one}


def test_the_other_by_the_beginning_of_its_id(told: dict[str, Any]) -> None:
    """`trace top` has what it copied up, and nothing of the first's."""
    other = list(told["engines"])[1]
    top = told["other's"]
    assert (top["total"]["count"], top["total"]["bytes"]) == (1, SIZES["eleven"])
    (process,) = top["processes"]
    assert (process["comm"], process["container"]) == ("sh", other)
    (file,) = top["files"]
    assert file["path"] == f"{told['engines'][other]['mount']}/data/eleven"
