"""Fuzzing finds planted faults, finds nothing where there is none, and can be repeated."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.spec import catalogue
from overlay.spec.bench import Places
from overlay.spec.calls import MountedCalls
from overlay.spec.fuzz import layers, repeat
from overlay.spec.fuzz.announced import Announcements
from overlay.spec.fuzz.answers import answer, told
from overlay.spec.fuzz.case import Case
from overlay.spec.fuzz.following import named
from overlay.spec.fuzz.hunt import Finding, Hunt, run_case
from overlay.spec.fuzz.script import as_script
from overlay.spec.fuzz.shellcalls import asking, functions, planting
from overlay.spec.fuzz.shrink import shrink
from overlay.spec.fuzz.steps import DOMAINS, OPERATIONS, Step
from overlay.spec.fuzz.trees import mounted_tree
from overlay.spec.targets import CommandTarget, EngineTarget, Target, parse_target
from tests.processes import PATIENCE, orphans_reaped
from tests.running import REPOSITORY, fallthru
from tests.spec import mutants

root = pytest.mark.usefixtures("root")

SEED = 4

#: Each fault: a mount with it, a seed that soon meets it, in how many steps it has to be found,
#: where it shows, what the difference is about, and the step that matters.
FAULTS: list[tuple[Target, int, int, str, str, str]] = [
    (mutants.helper("drops-whiteouts"), 2, 200, "tree", "entry", "unlink"),
    (mutants.helper("drops-opaque"), 11, 200, "tree", "entry", "mkdir"),
    (mutants.helper("writes-to-bottom"), 12, 300, "bottom", "the bottom", ""),
    (mutants.ForgetsMode(), 12, 300, "tree", "file mode", ""),
    (mutants.LosesXattr(), 12, 300, "tree", "file xattr *", ""),
    (mutants.TruncatesWrongly(), 4, 300, "tree", "file size", "truncate"),
]
MOST = max(steps for _, _, steps, *_ in FAULTS)


def hunted(target: Target, steps: int, seed: int = SEED) -> list[Finding]:
    outcome = Hunt(target, seed, steps=steps, shrinking=PATIENCE).run()
    assert outcome.unavailable is None
    return outcome.findings


@root
@pytest.mark.parametrize(
    ("target", "seed", "steps", "what", "subject", "operation"),
    FAULTS,
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_planted_fault_is_found_and_made_short(
    target: Target, seed: int, steps: int, what: str, subject: str, operation: str
) -> None:
    (finding,) = hunted(target, steps, seed)
    case = finding.case
    assert finding.found.what == what
    assert finding.found.difference.subject.startswith(subject.rstrip("*"))
    assert len(case.steps) <= 8, [str(step) for step in case.steps]
    assert len(case.bottoms[0]) <= 8, case.bottoms
    assert operation in {step.operation for step in case.steps} | {""}
    if isinstance(target, CommandTarget):
        shows_the_fault_and_only_the_fault(finding, target)
    # What a copyup spoils shows with the step that copies up.
    if isinstance(target, mutants.ForgetsMode | mutants.LosesXattr | mutants.TruncatesWrongly):
        assert len(case.steps) == 1


def shows_the_fault_and_only_the_fault(finding: Finding, target: CommandTarget) -> None:
    """The printed script, run by sh: with the mutant, and with the same mount without a fault."""
    script, shown = repeat.script_of(finding, target)
    assert shown, script
    honest = as_script(finding, mutants.helper("honest"))
    for text, code in ((script, 1), (honest, 0)):
        done = subprocess.run(
            ["unshare", "--mount", "sh"], input=text, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (code, ""), text
        expected, seen = (line.partition(":")[2].strip() for line in done.stdout.splitlines()[:2])
        assert (expected == seen) is (code == 0), done.stdout


@root
@pytest.mark.parametrize("target", [mutants.Honest(), mutants.helper("honest")])
def test_the_same_mounts_without_a_fault_show_nothing(target: Target) -> None:
    assert hunted(target, MOST) == []


@root
def test_the_same_seed_takes_the_same_steps() -> None:
    target = parse_target("overlayfs")
    first, again = (Hunt(target, 3, steps=200).run() for _ in range(2))
    assert (first.steps, first.cases, first.counts) == (200, again.cases, again.counts)
    announced = Announcements.of(target.name, first.features)
    cases = [Case.numbered(seed, 0, first.features, announced) for seed in (3, 3, 4)]
    assert cases[0] == cases[1] != cases[2]


@root
def test_the_engine_agrees_with_itself() -> None:
    assert hunted(EngineTarget(), 120) == []


@root
@pytest.mark.parametrize("name", ["kernel:document", "kernel:fallthru", "kernel:throwaway"])
def test_the_profiles_show_nothing_new(name: str) -> None:
    assert hunted(parse_target(name), 180) == []


@root
@pytest.mark.parametrize("name", ["overlayfs:metacopy=on", "unprivileged"])
def test_nor_do_other_ways_to_mount_overlayfs(name: str) -> None:
    assert hunted(parse_target(name), 180) == []


@root
def test_other_file_systems_below_make_no_difference() -> None:
    done = spec("--target", "overlayfs", "--steps", "60", "--bottom-fs", "ext4", "--top-fs", "xfs")
    assert "no findings" in done


@root
def test_a_server_that_hangs_is_a_finding() -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("needs: FUSE")
    target = CommandTarget.parse(hanging(), "hangs")
    outcome = Hunt(target, 1, steps=30, patience=1.0, shrinking=0).run()
    assert outcome.unavailable is None
    (finding,) = outcome.findings
    assert finding.found.what == "hang"
    assert finding.found.difference.seen == "no answer in 1 s"


def hanging(fifo: str = "-") -> str:
    """The mount command; what it does not need is given as further arguments."""
    program = Path(__file__).parent / "hangingfuse.py"
    return f"{sys.executable} {program} {{mnt}} {fifo} {{bottom}} {{top}}"


@root
def test_killed_it_takes_a_hanging_server_along(tmp_path: Path) -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("needs: FUSE")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "overlay", "spec", "fuzz", "--mount-command"]
    with orphans_reaped():
        process = subprocess.Popen(
            [*command, hanging(str(fifo))],
            cwd=REPOSITORY,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        with fifo.open() as file:
            server = int(file.read())
        gone = os.pidfd_open(server)
        process.kill()
        process.wait(PATIENCE)
        assert select.select([gone], [], [], PATIENCE)[0]
        os.close(gone)


# ------------------------------------------------------------------------- announcements


def clauses(differs: str) -> tuple[catalogue.Clause, ...]:
    departs = f'[{{target="some-fs", why="W.", source="S", differs={{{differs}}}}}]'
    return catalogue.parse(
        '[[clause]]\nid = "topic.rule"\nlines = ["1"]\nstatement = "S."\nstatus2010 = "W."\n'
        f'check = "C."\ndeparts = {departs}'
    )


def test_what_the_catalogue_announces_is_explained_and_nothing_else() -> None:
    found = clauses('fuzz = "chattr *: succeeds -> ENOTTY", leaves-out = ["open(*", "remount()"]')
    ours = Announcements.of("some-fs", frozenset(), found)
    assert ours.explains("chattr file: succeeds -> ENOTTY") == "topic.rule"
    assert ours.explains("chattr file: succeeds -> EIO") is None
    assert ours.leaves_out("open('a', O_RDWR, 0644, b'')") == "topic.rule"
    assert ours.leaves_out("write('a', b'')") is None
    others = Announcements.of("other-fs", frozenset(), found)
    assert others.explains("chattr file: succeeds -> ENOTTY") is None
    # The check of the clause itself has nothing to do with it.
    assert found[0].departures_of("some-fs", frozenset()) == ()


@root
def test_what_is_announced_would_be_a_finding(tmpfs_dir: Path) -> None:
    target, features = parse_target("kernel:document"), frozenset({"overlayfs", "index"})
    announced, unannounced = Announcements.of(target.name, features), Announcements([], [])
    for number in itertools.count():
        case = Case.numbered(1, number, features, announced)
        session, found, _ = run_case(case, target, features, announced, places(tmpfs_dir))
        assert found is None
        if session.counts:
            break
    _, found, _ = run_case(case, target, features, unannounced, places(tmpfs_dir))
    assert found is not None


def places(directory: Path) -> Places:
    """New ones each time."""
    base = directory / str(len(os.listdir(directory)))
    found = Places(base / "bottom", base / "top", base / "mounts")
    for path in (base, found.bottom, found.top, found.mounts):
        path.mkdir()
    return found


# --------------------------------------------------------------------- shrinking, scripts


@pytest.mark.parametrize(
    "path",
    ["d/a", "d/sub/../a", "up/a", "up/../b", "chain/sub/a", "chain", "d/..", ".", "loop/a", "d/a/"],
)
def test_a_step_is_about_the_file_that_its_path_leads_to(tmp_path: Path, path: str) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/a").touch()
    for link, target in (
        ("up", "d/sub"),
        ("chain", "d/back"),
        ("d/back", "../d"),
        ("loop", "loop"),
    ):
        (tmp_path / link).symlink_to(target)
    directory, name = os.path.split(path.rstrip("/"))
    if name in (".", ".."):
        directory, name = path, ""
    expected = os.path.relpath(tmp_path / os.path.realpath(tmp_path / directory) / name, tmp_path)
    expected = expected if expected == "." else f"./{expected}"
    assert os.fsdecode(named(path, mounted_tree(str(tmp_path), 0))) == expected


def test_shrinking_keeps_what_is_needed() -> None:
    choose = random.Random(1).choice
    bottom = layers.draw(choose, links=False)
    steps = [Step("alice", "unlink", (str(number),)) for number in range(40)]
    needed = {steps[3].arguments, steps[17].arguments, steps[39].arguments}
    wanted = next(entry for entry in bottom if entry.path.count("/") and entry.kind == "file")

    def shows(case: Case) -> bool:
        paths = {entry.path for entry in case.bottoms[0]}
        return needed <= {step.arguments for step in case.steps} and wanted.path in paths

    short = shrink(Case((bottom,), tuple(steps)), shows, 60)
    assert {step.arguments for step in short.steps} == needed
    assert {step.user for step in short.steps} == {"root"}
    parents = {str(parent) for parent in Path(wanted.path).parents} - {"."}
    assert {entry.path for entry in short.bottoms[0]} - {"."} == {wanted.path, *parents}


def test_shrinking_ends_when_its_time_is_over() -> None:
    case = Case(((),), (Step("root", "unlink", ("a",)),))
    assert shrink(case, lambda _: True, 0) == case


@root
def test_a_scripts_calls_answer_as_ours_do(tmpfs_dir: Path) -> None:
    """Every operation, on two copies of a layer: by our calls, and by the script's."""
    plants = layers.draw(random.Random(5).choice, links=True)
    for name in ("ours", "theirs"):
        (tmpfs_dir / name).mkdir(mode=0o755)
    (tmpfs_dir / "theirs").rmdir()
    layers.plant(tmpfs_dir / "ours", plants)
    choose = random.Random(2).choice
    steps = [
        Step(user, name, tuple(choose(DOMAINS[kind]) for kind in OPERATIONS[name]))
        for name, user in zip(OPERATIONS, itertools.cycle(("root", "alice", "bob")), strict=False)
    ]
    calls = MountedCalls(str(tmpfs_dir / "ours"))
    ours = [told(answer(calls, step, engine=False)) for step in steps]
    lines = ["umask 022", f"cd {tmpfs_dir}", *planting("theirs", plants), "cd theirs"]
    asked = [asking(step) for step in steps]
    script = "\n".join([*lines, *functions(asked), *asked])
    os.chmod(tmpfs_dir, 0o755)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    assert done.stderr == ""
    theirs = dict(zip(map(str, steps), done.stdout.splitlines(), strict=True))
    assert theirs == dict(zip(map(str, steps), ours, strict=True))


# ---------------------------------------------------------------------------- the command


def spec(*arguments: str, code: int = 0) -> str:
    done = fallthru("spec", "fuzz", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@root
def test_the_command_tells_what_it_found(tmp_path: Path) -> None:
    said = spec("--target", "overlayfs", "--steps", "30", "--seed", "2")
    assert said.startswith("overlayfs: no findings in 30 steps of 1 cases from seed 2")
    mutant, seed, *_ = FAULTS[0]
    assert isinstance(mutant, CommandTarget)
    command = " ".join(f"'{word}'" if " " in word else word for word in mutant.words)
    arguments = ("--mount-command", command, "--seed", str(seed), "--steps", "200")
    (record,) = json.loads(spec(*arguments, "--json", "-o", str(tmp_path), code=1))
    assert record["script_shows_it"] is True
    assert record["target"] == "command:sh"
    assert (tmp_path / "finding-1.sh").read_text() == record["script"]
    assert {"seed", "case", "what", "after", "path", "expected", "seen", "steps"} <= record.keys()
    said = spec(*arguments, "--shrink", "0", code=1)
    assert "finding 1: tree after" in said
    assert "#!/bin/sh" in said
    assert "1 finding in " in said


def test_a_wrong_command_line_and_a_missing_program_have_codes_of_their_own() -> None:
    assert "no such target" in spec("--target", "nonsense", code=2)
    assert "two targets" in spec("--target", "overlayfs", "--mount-command", "x", code=2)
    assert "no layers can be made" in spec("--bottom-fs", "vfat", code=2)


@root
def test_a_target_that_cannot_be_mounted_is_never_a_pass() -> None:
    assert "no program" in spec("--mount-command", "no-such-3141 {bottom} {top} {mnt}", code=3)
