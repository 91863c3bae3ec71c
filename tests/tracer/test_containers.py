"""Containers by the names of their cgroups and the places of their roots, as engines make them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.errors import UsageError
from tests.conftest import Layers
from tests.processes import PATIENCE
from tests.tracer.test_copyups import union
from tracer import containers
from tracer.containers import cgroup_of, container_of, owners
from tracer.session import Session
from tracer.unions import Cgroups, cgroup_root

ID = "0123456789abcdef" * 4
OTHER = "f" * 64


RUN = "7" * 64
LAYERS = {"docker": "1" * 64, "podman": "2" * 64, "podman --rm": "3" * 64}


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two of docker's containers with names, two of podman's, one of these made with --rm, and
    one of containerd's, called figlet, in the namespace functions."""
    docker = tmp_path / "docker"
    for ident, config in ((ID, {"Name": "/web"}), ("a" * 64, {"Name": 3}), ("b" * 64, [])):
        (docker / "containers" / ident).mkdir(parents=True)
        (docker / "containers" / ident / "config.v2.json").write_text(json.dumps(config))
    mounts = docker / "image/overlay2/layerdb/mounts"
    (mounts / ID).mkdir(parents=True)
    (mounts / ID / "mount-id").write_text(LAYERS["docker"])
    (mounts / ("e" * 64)).mkdir()  # in the making
    podman = tmp_path / "storage/overlay-containers"
    podman.mkdir(parents=True)
    (podman / "containers.json").write_text(
        json.dumps([{"id": OTHER, "names": ["data\x1bbase"], "layer": LAYERS["podman"]}])
    )
    (podman / "volatile-containers.json").write_text(
        json.dumps([{"id": RUN, "names": ["run"], "layer": LAYERS["podman --rm"]}])
    )
    tasks = tmp_path / "tasks"
    (tasks / "functions/figlet").mkdir(parents=True)
    monkeypatch.setattr(containers, "_TASKS", str(tasks))
    monkeypatch.setattr(containers, "_DOCKER", str(docker))
    monkeypatch.setattr(containers, "_STORAGE", str(podman.parent))
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
        (f"/libpod_parent/libpod-{RUN}", "run"),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{'d' * 64}.scope", "d" * 12),
        (f"/system.slice/nerdctl-{'d' * 64}.scope", "d" * 12),
        ("/functions/figlet", "figlet"),
        ("/functions/figlet/init.scope", "figlet"),
        (f"/functions/figlet/docker/{ID}", "web"),
        ("/functions", None),
        ("/functions/other", None),
        ("/user.slice/functions/figlet", None),
        ("/lxc.payload.build/user.slice", "build"),
        ("/machine.slice/machine-trixie\\x2dtest.scope/payload", "trixie-test"),
        ("/user.slice/user-0.slice/session-1.scope", None),
        ("/", None),
        (None, None),
    ],
)
def test_names(cgroup: str | None, name: str | None) -> None:
    assert container_of(cgroup) == name


def test_roots() -> None:
    """By the mount point, or by the top where another namespace sees the root as its own."""
    found = owners(
        {
            1: (f"/var/lib/docker/overlay2/{LAYERS['docker']}/merged", ""),
            2: ("/", f"/var/lib/containers/storage/overlay/{LAYERS['podman']}/diff"),
            3: (f"/var/lib/containers/storage/overlay/{LAYERS['podman --rm']}/merged", "x/diff"),
            4: (f"/var/lib/docker/rootfs/overlayfs/{ID}", "/var/lib/containerd/snapshots/7/fs"),
            5: (f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{'d' * 64}/rootfs", ""),
            6: ("/run/containerd/io.containerd.runtime.v2.task/default/mine/rootfs", ""),
            7: (f"/var/lib/docker/overlay2/{'9' * 64}/merged", ""),  # a build's
            8: ("/mnt", "/srv/top"),
            9: (f"/var/lib/docker/rootfs/stargz/{ID}", "/var/lib/containerd-stargz-grpc/7/fs"),
        }
    )
    assert found == {
        1: "web", 2: "data\\x1bbase", 3: "run", 4: "web", 5: "d" * 12, 6: "mine", 9: "web",
    }  # fmt: skip


def test_engines_whose_files_are_damaged() -> None:
    for name in ("containers.json", "volatile-containers.json"):
        Path(containers._STORAGE, "overlay-containers", name).write_text("[{")
    assert container_of(f"/libpod-{OTHER}") == "f" * 12
    assert owners({1: (f"/overlay/{LAYERS['podman']}/merged",)}) == {}


@pytest.fixture
def scope() -> Iterator[Path]:
    """The cgroup of docker's container."""
    root = cgroup_root()
    if root is None:
        pytest.skip("needs: a cgroup2 file system")
    directory = Path(root, f"docker-{ID}.scope")
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"needs: leave to make a cgroup ({error.strerror})")
    try:
        yield directory
    finally:
        if directory.exists():
            directory.rmdir()


def test_a_cgroup_that_is_gone_when_it_is_asked_for(scope: Path) -> None:
    """What was learnt while it was there holds."""
    ident = scope.stat().st_ino
    known = Cgroups()
    known.learn({ident})
    scope.rmdir()
    assert (known.name(ident), known.container(ident)) == (f"/{scope.name}", "web")
    late = Cgroups()
    assert (late.name(ident), late.container(ident)) == (None, None)


def test_a_container_that_is_gone_when_rows_are_made(
    scope: Path, layers: Layers, tracing: None
) -> None:
    """Nobody asks for rows before: what the kernel delivers is looked at all the same."""
    (layers.bottom / "f").write_bytes(b"x")
    with union(layers) as mnt, Session(mounts=[mnt]) as session:
        enter = 'echo $$ >"$1"/cgroup.procs; exec chmod 600 "$2"/f'
        subprocess.run(("sh", "-c", enter, "sh", scope, mnt), check=True)
        limit = time.monotonic() + PATIENCE
        while not session._cgroups._paths:
            assert time.monotonic() < limit
            time.sleep(0.01)
        scope.rmdir()
        (row,) = session.table().to_pylist()
    assert (row["path"], row["cgroup"], row["container"]) == ("/f", f"/{scope.name}", "web")


def test_cgroups_of_containers(tmp_path: Path) -> None:
    """By name, or by an id's beginning; not what is inside of it, nor what only looks like it."""
    root = tmp_path / "cgroup"
    web = root / "system.slice" / f"docker-{ID}.scope"
    for directory in (web / "init.scope", root / "libpod" / f"libpod-{'c' * 64}", root / "web"):
        directory.mkdir(parents=True)
    assert cgroup_of("web", str(root)) == str(web)
    assert cgroup_of(ID[:6], str(root)) == str(web)
    assert cgroup_of("c" * 12, str(root)) == str(root / "libpod" / f"libpod-{'c' * 64}")
    task = root / "functions/figlet"
    task.mkdir(parents=True)
    assert cgroup_of("figlet", str(root)) == str(task)
    task.rmdir()
    with pytest.raises(UsageError, match="no container is called base") as caught:
        cgroup_of("base", str(root))
    assert caught.value.hint == f"running: {'c' * 12}, web"
    (root / f"crio-{ID[:9]}{'0' * 55}.scope").mkdir()
    with pytest.raises(UsageError, match="more than one"):
        cgroup_of(ID[:6], str(root))
