"""What the tracer reads of its environment, and the errors when that is not there."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overlay.bpf import bccload
from overlay.bpf.btf import VMLINUX, Btf, Member, NoBtf, struct_header
from overlay.bpf.compiling import SHIM
from overlay.errors import NoPrivilege
from tests.running import REPOSITORY, in_child
from tracer import program
from tracer.kallsyms import KALLSYMS, NoAddresses, copyup_ranges, known_ranges, ranges_of
from tracer.preemption import preempts_by


def u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def kind(number: int, count: int = 0) -> int:
    return number << 24 | count


def blob(path: Path) -> Path:
    """BTF of ``struct outer { int a; union { struct { long b; }; char c[3]; }; const T d; }``."""
    names = ["", "outer", "a", "b", "c", "d", "int", "long", "char", "T"]
    at = {name: sum(len(n) + 1 for n in names[:i]) for i, name in enumerate(names)}
    types = b"".join(
        [
            u32(at["int"], kind(1), 4, 32),  # 1
            u32(at["long"], kind(1), 8, 64),  # 2
            u32(at["char"], kind(1), 1, 8),  # 3
            u32(0, kind(3), 0, 3, 1, 3),  # 4: char[3]
            u32(0, kind(4, 1), 8, at["b"], 2, 0),  # 5: struct { long b; }
            u32(0, kind(5, 2), 8, 0, 5, 0, at["c"], 4, 0),  # 6: union
            u32(at["T"], kind(8), 1),  # 7: typedef int T
            u32(0, kind(10), 7),  # 8: const T
            u32(at["outer"], kind(4, 3), 24, at["a"], 1, 0, 0, 6, 64, at["d"], 8, 128),  # 9
        ]
    )
    strings = "\0".join(names).encode() + b"\0"
    head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    path.write_bytes(head + types + strings)
    return path


def test_members(tmp_path: Path) -> None:
    """Through anonymous unions and structures, typedefs and const."""
    btf = Btf(str(blob(tmp_path / "btf")))
    assert btf.member("outer", "a") == Member("a", 0, 4)
    assert btf.member("outer", "b") == Member("b", 8, 8)
    assert btf.member("outer", "c") == Member("c", 8, 3)
    assert btf.member("outer", "d") == Member("d", 16, 4)
    assert btf.size("outer") == 24
    text = struct_header(btf, {"outer": ["b", "d"]})
    assert "unsigned char pad0[8]; unsigned long long b;" in text
    assert "unsigned char pad1[16]; unsigned int d;" in text


def test_what_the_kernel_lacks_is_named(tmp_path: Path) -> None:
    btf = Btf(str(blob(tmp_path / "btf")))
    with pytest.raises(NoBtf, match=r"struct outer has no member nosuch"):
        btf.member("outer", "nosuch")
    with pytest.raises(NoBtf, match=r"no struct nosuch"):
        btf.member("nosuch", "a")
    with pytest.raises(NoBtf, match="cannot be read"):
        Btf(str(tmp_path / "missing"))
    (tmp_path / "text").write_text("no BTF at all, whatever else it may be")
    with pytest.raises(NoBtf, match="is not BTF"):
        Btf(str(tmp_path / "text"))


def test_reading_the_kernels_types_is_quick() -> None:
    if not Path(VMLINUX).exists():
        pytest.skip("needs: BTF")
    started = time.process_time()
    assert Btf().member("inode", "i_sb").size == 8
    assert time.process_time() - started < 0.5


def test_copyup_code() -> None:
    """Functions end where the next begins; suffixes count, cold parts and others do not."""
    lines = [
        b"ffffffff81000000 T before",
        b"ffffffff81000100 t ovl_copy_up_one.isra.0",
        b"ffffffff81000180 t __pfx_ovl_copy_up_flags",
        b"ffffffff81000200 t ovl_copy_up_flags",
        b"ffffffff81000300 T ovl_copy_xattr",
        b"ffffffff81000400 T ovl_copy_up",
        b"ffffffff81000500 d data_in_between",
        b"ffffffff81000600 T behind",
        b"ffffffff81000700 t ovl_copy_up_one.cold",
        b"ffffffff81000800 T last",
    ]
    expected = [
        (0xFFFFFFFF81000100, 0xFFFFFFFF81000300),
        (0xFFFFFFFF81000400, 0xFFFFFFFF81000600),
    ]
    assert ranges_of(lines) == expected
    assert ranges_of(reversed(lines)) == expected


def test_hidden_addresses(tmp_path: Path) -> None:
    symbols = tmp_path / "kallsyms"
    symbols.write_text("0000000000000000 T ovl_copy_up_flags\n0000000000000000 T next\n")
    with pytest.raises(NoAddresses, match="hides"):
        copyup_ranges(str(symbols))
    symbols.write_text("ffffffff81000000 T something\nffffffff81000100 T else\n")
    with pytest.raises(NoAddresses, match="no overlayfs copyup code"):
        copyup_ranges(str(symbols))
    with pytest.raises(NoAddresses, match="cannot be read"):
        copyup_ranges(str(tmp_path / "missing"))


def test_copyup_code_is_looked_for_once(
    tracing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time only where the kernel begins is read, which may have moved."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    expected = copyup_ranges()
    assert known_ranges() == expected
    if not list(tmp_path.iterdir()):
        pytest.skip("needs: overlayfs that is no module, and a kernel with a build id")
    text = next(line for line in Path(KALLSYMS).read_text().splitlines() if line.endswith(" _text"))
    moved = tmp_path / "kallsyms"
    moved.write_text(f"{int(text.split()[0], 16) + 0x2000000:x} T _text\n")
    assert known_ranges(str(moved)) == [(a + 0x2000000, b + 0x2000000) for a, b in expected]
    moved.write_text("0000000000000000 T _text\n0000000000000000 T ovl_copy_up_flags\n")
    with pytest.raises(NoAddresses, match="hides"):
        known_ranges(str(moved))


def test_bcc_missing() -> None:
    """In a child: whether bcc is loaded is a property of the process."""

    def without() -> object:
        sys.modules.pop("bcc", None)
        bccload._PLACES = ("/no/such/place",)
        return bccload.load()

    assert in_child(without).startswith("NoBcc: bcc, which compiles")


def test_only_bcc_comes_from_the_distribution(tracing: None) -> None:
    bccload.load()
    assert not [place for place in sys.path if place.endswith("dist-packages")]


def test_without_capabilities(tracing: None) -> None:
    """Root that may not load programs, as in a container."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs: setpriv")
    gone = "-sys_admin,-bpf,-perfmon"
    done = subprocess.run(
        ["setpriv", f"--bounding-set={gone}", f"--inh-caps={gone}",
         sys.executable, "-m", "overlay", "trace", "record", "-o", "/nonexistent/t", "--", "true"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, "what is wrong with the request comes first"
    probe = (
        "from tracer.program import *\n"
        "try: build('tracepoint', Filters())\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        ["setpriv", f"--bounding-set={gone}", f"--inh-caps={gone}", sys.executable, "-c", probe],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == NoPrivilege.__name__
    assert done.stderr == ""


def test_probes_are_package_data() -> None:
    """All that is compiled lies beside the package."""
    assert all(
        (program.PROBES / f"{part}.c").exists()
        for parts in program._PARTS.values()
        for part in parts
    )
    assert (SHIM / "include/linux/kconfig.h").exists()


@pytest.mark.parametrize(
    ("models", "version", "expected"),
    [
        ("none voluntary (full) lazy\n", "#1 SMP PREEMPT_DYNAMIC", True),
        ("full (lazy)\n", "#1 SMP PREEMPT_DYNAMIC", True),
        ("none (voluntary) full\n", "#1 SMP PREEMPT_DYNAMIC", False),
        (None, "#1 SMP PREEMPT_DYNAMIC", True),
        (None, "#1 SMP PREEMPT_RT", True),
        (None, "#1 SMP", False),
    ],
)
def test_whether_the_kernel_preempts(models: str | None, version: str, expected: bool) -> None:
    assert preempts_by(models, version) is expected


def test_what_is_waited_for_does_without_numpy() -> None:
    """It would be a third of the time until something is seen."""
    code = "import sys, tracer.recorder; print('numpy' in sys.modules)"
    command = (sys.executable, "-c", code)
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
