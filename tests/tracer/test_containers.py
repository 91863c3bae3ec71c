"""Containers by the names of their cgroups, as the engines make them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.errors import UsageError
from tracer import containers
from tracer.containers import cgroup_of, container_of

ID = "0123456789abcdef" * 4
OTHER = "f" * 64


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two of docker's containers with names, one of podman's."""
    docker = tmp_path / "docker"
    for ident, config in ((ID, {"Name": "/web"}), ("a" * 64, {"Name": 3}), ("b" * 64, [])):
        (docker / ident).mkdir(parents=True)
        (docker / ident / "config.v2.json").write_text(json.dumps(config))
    podman = tmp_path / "containers.json"
    podman.write_text(json.dumps([{"id": OTHER, "names": ["data\x1bbase"]}, {"id": "c" * 64}]))
    monkeypatch.setattr(containers, "_DOCKER", str(docker))
    monkeypatch.setattr(containers, "_PODMAN", str(podman))
    containers._name_of.cache_clear()
    yield
    containers._name_of.cache_clear()


@pytest.mark.parametrize(
    ("cgroup", "name"),
    [
        (f"/system.slice/docker-{ID}.scope", "web"),
        (f"/docker/{ID}", "web"),
        (f"/docker/{ID}/init.scope", "web"),
        (f"/machine.slice/libpod-{OTHER}.scope/container", "data\\x1bbase"),
        (f"/docker/{'a' * 64}", "a" * 12),
        (f"/docker/{'b' * 64}", "b" * 12),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{'d' * 64}.scope", "d" * 12),
        ("/lxc.payload.build/user.slice", "build"),
        ("/machine.slice/machine-trixie\\x2dtest.scope/payload", "trixie-test"),
        ("/user.slice/user-0.slice/session-1.scope", None),
        ("/", None),
        (None, None),
    ],
)
def test_names(cgroup: str | None, name: str | None) -> None:
    assert container_of(cgroup) == name


def test_engines_whose_files_are_damaged(tmp_path: Path) -> None:
    Path(containers._PODMAN).write_text("[{")
    assert container_of(f"/libpod-{OTHER}") == "f" * 12


def test_cgroups_of_containers(tmp_path: Path) -> None:
    """By name, or by an id's beginning; not what is inside of it, nor what only looks like it."""
    root = tmp_path / "cgroup"
    web = root / "system.slice" / f"docker-{ID}.scope"
    for directory in (web / "init.scope", root / "libpod" / f"libpod-{'c' * 64}", root / "web"):
        directory.mkdir(parents=True)
    assert cgroup_of("web", str(root)) == str(web)
    assert cgroup_of(ID[:6], str(root)) == str(web)
    assert cgroup_of("c" * 12, str(root)) == str(root / "libpod" / f"libpod-{'c' * 64}")
    with pytest.raises(UsageError, match="no container is called base") as caught:
        cgroup_of("base", str(root))
    assert caught.value.hint == f"running: {'c' * 12}, web"
    (root / f"crio-{ID[:9]}{'0' * 55}.scope").mkdir()
    with pytest.raises(UsageError, match="more than one"):
        cgroup_of(ID[:6], str(root))
