"""The ``fallthru`` command as click has it: reads the command line, and finds the subcommand.

Each subcommand is one module that is imported only when it is asked for, so that the
command starts in a few times what Python itself needs; a test holds it to that.
"""

from __future__ import annotations

import click

from overlay import __version__
from overlay.cli.lazy import LazyGroup

__all__ = ["SUBCOMMANDS", "command", "run"]


#: Each subcommand's line in ``--help``, and where it lives (``module:attribute``).
SUBCOMMANDS = {
    "mount": ("Mount a top over its bottoms.", "overlay.cli.mount:mount"),
    "umount": ("Remove an overlay.", "overlay.cli.umount:umount"),
    "status": ("Show the overlays that are mounted.", "overlay.cli.status:status"),
    "try": ("Run a command on a throw-away view of the system.", "overlay.cli.trying:try_"),
    "run": ("Run a command in a root of its own.", "overlay.cli.run:run"),
    "create": ("Make a root that can be started.", "overlay.cli.roots:create"),
    "start": ("Start roots.", "overlay.cli.roots:start"),
    "stop": ("Stop roots.", "overlay.cli.roots:stop"),
    "list": ("List the roots, and which of them run.", "overlay.cli.roots:list_"),
    "exec": ("Run a command in a root that runs.", "overlay.cli.roots:exec_"),
    "rm": ("Remove roots, with their tops.", "overlay.cli.roots:rm"),
    "snapshot": ("Copy what a top holds, to go back to.", "overlay.cli.snapshot:snapshot"),
    "rollback": ("Make a top what it was at a snapshot.", "overlay.cli.snapshot:rollback"),
    "watch": ("Tell what happens to a bottom meanwhile.", "overlay.cli.watch:watch"),
    "diff": ("Show what the top changes of its bottoms.", "overlay.cli.diff:diff"),
    "commit": ("Do what a top changes to its bottom.", "overlay.cli.commit:commit"),
    "discard": ("Empty a top.", "overlay.cli.discard:discard"),
    "merge": ("Make one top of several.", "overlay.cli.merge:merge"),
    "squash": ("Make one bottom of several.", "overlay.cli.merge:squash"),
    "export": ("Write a top in another format.", "overlay.cli.export:export"),
    "import": (
        "Make a layer of an archive, image or directory.",
        "overlay.cli.import_:import_",
    ),
    "check": ("Find damage in a top, and repair it.", "overlay.cli.check:check"),
    "prime": ("Copy directories up ahead of time, as fallthrus.", "overlay.cli.prime:prime"),
    "precopy": ("Copy known files up ahead of time.", "tracer.cli.precopy:precopy"),
    "freeze": ("Make a bottom that cannot change.", "overlay.cli.freeze:freeze"),
    "trace": ("Record and show what copyup costs.", "tracer.cli:trace"),
    "report": ("Summarise traces; write a page with pictures.", "analysis.cli.report:report"),
    "advise": ("Say what would have cost less, and how much.", "analysis.cli.advise:advise"),
    "fleet": ("Summarise the traces of many hosts.", "analysis.cli.fleet:fleet"),
    "spec": ("Judge union mounts by the document's clauses.", "overlay.cli.spec:spec"),
    "install-helper": (
        "Let mount(8) and fstab mount overlays.",
        "overlay.cli.install_helper:install_helper",
    ),
    "boot": ("Have a machine boot on an overlay.", "overlay.cli.boot:boot"),
    "doctor": ("Tell what works on this machine.", "overlay.cli.doctor:doctor"),
    "manpages": ("Write the manual pages.", "overlay.cli.manpages:manpages"),
    "completion": ("Print shell completion.", "overlay.cli.completion:completion"),
}


@click.group(
    cls=LazyGroup,
    table=SUBCOMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 the machine lacks something, "
    "4 refused to protect data, 5 an operation failed.",
)
@click.version_option(__version__, prog_name="fallthru")
def command() -> None:
    """Writable overlays for Linux: one writable top over read-only bottoms.

    \b
    fallthru mount --bottom /usr --top /srv/usr-top /mnt
    fallthru diff /mnt
    fallthru umount /mnt
    """


def run() -> int:
    """Read the command line and do what it says; the exit code.

    What goes wrong is raised, but for mistakes in the command line, which are told here.
    """
    try:
        return command.main(prog_name="fallthru", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        raise KeyboardInterrupt from None
