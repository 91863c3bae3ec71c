"""What the tests of reports, advice and fleets share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from overlay.cli import main
from tests.analysis.commands import Done, Fallthru


@pytest.fixture
def fallthru(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fallthru:
    """Run ``fallthru`` in this process, in ``tmp_path``: exit code and output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["fallthru", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run
