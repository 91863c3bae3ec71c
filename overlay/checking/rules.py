"""What can be wrong with a top: every finding of ``fallthru check``, as data.

Each code has one rule: how bad it is, what it is, and what a repair does about it.
``docs/check.md`` is the same table for readers; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["RULES", "Finding", "Repair", "Rule", "Severity", "finding"]


class Severity(StrEnum):
    """``error``: the union fails or shows something wrong.  ``warning``: a mark that is wrong
    but does no harm yet.  ``note``: a mark that does nothing; no damage."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Repair(StrEnum):
    """``safe``: what the union shows stays or gets right.  ``ask``: a choice.
    ``none``: nothing that a tool could do."""

    SAFE = "safe"
    ASK = "ask"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.  ``remedy`` is what the repair does, empty where there is none.

    ``by_bottoms``: the judgement is only as good as the bottoms that were named.
    """

    severity: Severity
    repair: Repair
    statement: str
    remedy: str = ""
    by_bottoms: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong.  ``path`` is relative to the ``layer``: ``top``, or ``work``, the work
    directory.  ``mark`` is the attribute or the path that the repair needs besides."""

    path: bytes
    code: str
    severity: Severity
    message: str
    repair: Repair
    layer: str = "top"
    mark: str = ""

    @property
    def damage(self) -> bool:
        """Whether it counts: notes do not."""
        return self.severity is not Severity.NOTE

    @property
    def key(self) -> tuple[str, bytes, str, str]:
        """What makes it the same finding in another run."""
        return (self.layer, self.path, self.code, self.mark)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_SAFE, _ASK, _NONE = Repair.SAFE, Repair.ASK, Repair.NONE
_OWN = "make the directory opaque, so that it shows what the top holds, and drop the redirect"
_ASIDE = "move it to lost+found in the work directory"

RULES: Final[dict[str, Rule]] = {
    "whiteout-nothing": Rule(
        _W, _SAFE, "a whiteout over a name that no bottom has", "remove the whiteout", True
    ),
    "whiteout-opaque": Rule(
        _W,
        _SAFE,
        "a whiteout in an opaque directory: readdir shows the name, but it cannot be opened",
        "remove the whiteout",
    ),
    "xattr-whiteout-outside": Rule(
        _W,
        _SAFE,
        "an xattr whiteout in a directory that is not marked for them (opaque=x)",
        "mark the directory",
    ),
    "mark-misplaced": Rule(
        _W, _SAFE, "a mark on something that cannot have it, so nobody reads it", "remove the mark"
    ),
    "mark-value": Rule(
        _W, _ASK, "an opaque mark that says neither y nor x, so nobody reads it", "remove the mark"
    ),
    "wrong-family": Rule(
        _W,
        _ASK,
        "a mark of the other family of attributes, so this overlay does not see it",
        "give the mark this overlay's name",
        True,
    ),
    "redirect-invalid": Rule(_E, _ASK, "a redirect that is no path: lookup fails", _OWN),
    "redirect-leaves": Rule(_E, _ASK, "a redirect with . or .. in it: lookup fails", _OWN),
    "redirect-gone": Rule(_E, _ASK, "a redirect to what is not there", _OWN, True),
    "redirect-type": Rule(_E, _ASK, "a directory that redirects to no directory", _OWN, True),
    "redirect-loop": Rule(
        _E, _ASK, "a redirect to a directory that holds this one in the union", _OWN, True
    ),
    "redirect-duplicate": Rule(
        _E,
        _ASK,
        "a redirect to what the union shows at another place too: lookup of one of them fails",
        f"{_OWN}; a file without data of its own: {_ASIDE}",
        True,
    ),
    "metacopy-invalid": Rule(
        _E, _ASK, "a metacopy mark that no overlay writes: lookup fails", "write an empty one"
    ),
    "stub-gone": Rule(_E, _ASK, "a fallthru whose data no bottom has", _ASIDE, True),
    "stub-type": Rule(_E, _ASK, "a fallthru to what is not a regular file", _ASIDE, True),
    "stub-size": Rule(
        _E, _ASK, "a fallthru of another size than its data", "take over the data's size", True
    ),
    "bottom-hostile": Rule(
        _E, _NONE, "a mark in a bottom that no overlay writes: lookup fails", "", True
    ),
    "leftover": Rule(_W, _ASK, "a temporary name of a command that was interrupted", _ASIDE),
    "unreadable": Rule(_E, _NONE, "it cannot be read"),
    "opaque-needless": Rule(
        _N, _SAFE, "an opaque directory where nothing could show through", "remove the mark", True
    ),
    "x-needless": Rule(
        _N, _SAFE, "a directory marked for xattr whiteouts that has none", "remove the mark"
    ),
    "impure-missing": Rule(
        _N,
        _SAFE,
        "a directory with copied-up entries that is not marked impure: readdir may tell "
        "other inode numbers than stat",
        "set the mark",
    ),
    "redirect-stale": Rule(
        _N, _SAFE, "a redirect on a file that has data of its own", "remove the mark"
    ),
    "root-origin": Rule(
        _E,
        _ASK,
        "the top was made for other bottoms",
        "forget for which; the next mount notes these",
    ),
    "index-top": Rule(
        _E,
        _ASK,
        "the work directory's index was made for another top",
        "forget for which; the next mount notes this one",
    ),
    "index-invalid": Rule(
        _E, _ASK, "not an index entry: the kernel refuses to mount with it", _ASIDE
    ),
    "index-leftover": Rule(_W, _SAFE, "a temporary index entry of a crash", "remove it"),
    "index-dangling": Rule(
        _W, _ASK, "an index entry that is not of the file it is named for", _ASIDE
    ),
    "index-orphan": Rule(
        _W, _SAFE, "an index entry whose last name is gone from the union", "remove it"
    ),
    "work-leftover": Rule(_W, _SAFE, "a temporary object of a crash", "remove it"),
    "volatile": Rule(
        _E,
        _ASK,
        "the top was last mounted volatile: after a crash it may be incomplete, and the kernel "
        "refuses to mount it",
        "accept it as it is",
    ),
    "stubs-flag": Rule(
        _E,
        _SAFE,
        "the work directory says that the top holds no fallthrus, but it does",
        "correct the note",
    ),
}


def finding(
    code: str, path: bytes, detail: str = "", *, layer: str = "top", mark: str = ""
) -> Finding:
    """The finding ``code`` at ``path``; ``detail`` is added to the rule's statement."""
    rule = RULES[code]
    message = f"{rule.statement} ({detail})" if detail else rule.statement
    return Finding(path, code, rule.severity, message, rule.repair, layer, mark)
