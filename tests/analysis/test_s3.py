"""Traces in S3: the protocol as a server of its own speaks it, asked through s3fs.

Both are too large to come with the other tests: ``pip install s3fs 'moto[s3,server]'``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.analysis import synthetic
from tests.analysis.synthetic import Workload
from tests.processes import orphans_reaped
from tests.running import fallthru

#: Moto's server until its standard input ends, with a bucket; tells where it is.
SERVER = """
import sys, boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="traces")
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
server.stop()
"""
#: Puts what is in a directory below a URL.
PUT = "import fsspec, sys; fsspec.filesystem('s3').put(sys.argv[1], sys.argv[2], recursive=True)"

HOSTS = {"a": 31, "b": 17}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket; commands find its server by the environment."""
    for name in ("s3fs", "moto", "flask", "boto3"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("needs: s3fs and moto's server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with (
        orphans_reaped(),
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server,
    ):
        assert server.stdout is not None
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.stdout.readline().strip())
        yield "s3://traces"
        server.communicate()


def put(directory: Path, url: str) -> None:
    subprocess.run([sys.executable, "-c", PUT, f"{directory}/", url], env=os.environ, check=True)


def test_the_commands_read_traces_from_s3(s3: str, tmp_path: Path) -> None:
    for host, spans in HOSTS.items():
        made = synthetic.columns(Workload(spans=spans))
        synthetic.write(tmp_path / "set" / f"host={host}" / "run=1", made, parts=2)
    put(tmp_path / "set", f"{s3}/set")

    done = fallthru("report", f"{s3}/set/host=a/run=1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["copyups"]["spans"] == HOSTS["a"]
    assert run["path"] == "s3://traces/set/host=a/run=1"
    page = tmp_path / "page.html"
    assert fallthru("report", f"{s3}/set/host=a/run=1", "-o", page).returncode == 0
    here = tmp_path / "here.html"
    fallthru("report", tmp_path / "set/host=a/run=1", "-o", here)
    assert page.read_text().count("<svg") == here.read_text().count("<svg") > 0

    for engine in ("pandas", "dask"):
        with orphans_reaped():
            done = fallthru("fleet", f"{s3}/set", "--by", "host", "--json", "--engine", engine)
        assert (done.returncode, done.stderr) == (0, "")
        (survey,) = json.loads(done.stdout)["surveys"]
        assert {row["host"]: row["spans"] for row in survey["by"]["host"]} == HOSTS

    assert fallthru("report", f"{s3}/nothing").returncode == 2
    gone = fallthru("report", "s3://no-such-bucket/trace")
    assert gone.returncode in (2, 5)
    assert "Traceback" not in gone.stderr
