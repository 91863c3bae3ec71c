"""Scripts of steps, carried out by sh: each command with what it prints and how it fails."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import PATIENCE

__all__ = ["Command", "parse", "run"]


@dataclass
class Command:
    """A line of a script, and what the lines below it say of it."""

    line: str
    output: list[str] = field(default_factory=list)
    error: str = ""


def parse(script: str) -> list[Command]:
    commands: list[Command] = []
    for line in script.splitlines():
        sign, _, rest = line.partition(" ")
        if sign == "#>":
            commands[-1].output.append(rest)
        elif sign == "#!":
            commands[-1].error = rest
        elif sign != "#" and line:
            commands.append(Command(line))
    return commands


def run(script: str, directory: Path) -> list[str]:
    """Carry the script out in a namespace of its own; what went otherwise than it says."""
    commands = parse(script)
    for number, command in enumerate(commands):
        done = f"{directory}/{number}"
        # In this shell, since it holds descriptors and has a working directory.
        (directory / f"{number}.sh").write_text(
            f"{{ {command.line}\n}} >{done}.out 2>{done}.err\necho $? >{done}.status\n"
        )
    whole = "".join(f". {directory}/{number}.sh\n" for number in range(len(commands)))
    environment = os.environ | {"TMPDIR": str(directory)}
    subprocess.run(
        ["unshare", "-m", "sh", "-c", whole],
        stdin=subprocess.DEVNULL,
        env=environment,
        check=False,
        timeout=PATIENCE,
    )
    return [
        f"{command.line}: {wrong}"
        for number, command in enumerate(commands)
        if (wrong := _wrong(command, directory / str(number)))
    ]


def _wrong(command: Command, done: Path) -> str:
    status = done.with_suffix(".status")
    if not status.exists():
        return "not carried out"
    failed, said = int(status.read_text()) != 0, done.with_suffix(".err").read_text()
    if failed != bool(command.error):
        return f"{'fails' if failed else 'succeeds'}, not {command.error or 'so'}: {said}"
    output = done.with_suffix(".out").read_text().rstrip().splitlines()
    if command.output and output != command.output:
        return f"prints {output}, not {command.output}"
    return ""
