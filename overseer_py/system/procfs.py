"""Who is whose child, and who holds which file.  proc(5).

A process may end between two looks: whatever is not there any more is simply left out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

_CAP_SEARCH = {1, 2}  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_CAP_SYS_PTRACE = 19
_SOCKET = "socket:["
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")  # a second


def children(pid: int) -> list[int]:
    """Return the pids of the direct children (CONFIG_PROC_CHILDREN)."""
    found: list[int] = []
    for task in entries(f"/proc/{pid}/task"):
        found += [int(word) for word in read(f"/proc/{pid}/task/{task}/children").split()]
    return found


def parent(pid: int) -> int:
    """Return the pid of the parent; 0 if the process is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def tree(roots: Iterable[int]) -> list[int]:
    """Return the roots and all their descendants, parents first."""
    found: dict[int, None] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop(0)
        if pid not in found:
            found[pid] = None
            waiting += children(pid)
    return list(found)


def pids() -> Iterator[int]:
    """Yield every process that this one may see."""
    return (int(name) for name in entries("/proc") if name.isdigit())


def group_and_start(pid: int) -> tuple[int, int]:
    """Return the process group and the start time (clock ticks since boot); (0, 0) if gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[2]), int(fields[19])) if len(fields) > 19 else (0, 0)  # noqa: PLR2004


def is_zombie(pid: int) -> bool:
    """Whether the process has ended (or is gone)."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return not fields or fields[0] in (b"Z", b"X")


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped by a signal."""
    return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:1] == [b"T"]


def is_ending(pid: int) -> bool:
    """Whether a process of one thread has no memory any more, and so no variables to see."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return len(fields) > 20 and fields[20] == b"0" and fields[17] in (b"0", b"1")  # noqa: PLR2004


def memory(pid: int) -> int:
    """Return the bytes of memory that are resident (shared pages count in full)."""
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if len(fields) > 12 else 0.0  # noqa: PLR2004


def has_variable(pid: int, name: str, value: str) -> bool:
    """Whether the process was started with this variable in its environment."""
    return f"{name}={value}".encode() in read(f"/proc/{pid}/environ").split(b"\0")


def capabilities() -> set[int]:
    """Return the capabilities that are in effect here, by their numbers (capabilities(7))."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith(b"CapEff:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(mask.bit_length()) if mask >> number & 1}
    return set()


def sees_others() -> bool:
    """Whether the descriptors of other users' processes are ours to see.

    Their directory is its owner's alone, and each of them is for whoever may trace its process.
    """
    ours = capabilities()
    return _CAP_SYS_PTRACE in ours and bool(ours & _CAP_SEARCH)


def is_hidden(pid: int) -> bool:
    """Whether the descriptors of a process are not ours to see (ptrace(2), access modes)."""
    try:  # listing them needs less than following them
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def sockets(pid: int) -> dict[int, list[int]]:
    """Return the inodes of the sockets that a process has open, each with its descriptors."""
    found: dict[int, list[int]] = {}
    for name in entries(f"/proc/{pid}/fd"):
        target = link(f"/proc/{pid}/fd/{name}")
        if target.startswith(_SOCKET):
            found.setdefault(int(target[len(_SOCKET) : -1]), []).append(int(name))
    return found


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor of our own but these: whoever holds a listener keeps its port."""
    for name in entries("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


def holder(inode: int) -> dict[str, object]:
    """Return the pid and the command of a process that has this socket; empty if none is seen."""
    return next((described(pid) for pid in pids() if inode in sockets(pid)), {})


def described(pid: int) -> dict[str, object]:
    """Return the pid and the command of a process, as far as it can be known: it may be gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            words = file.read(4096) or b""
    except OSError:
        return {"pid": pid, "command": "(hidden)" if is_there(pid) else "(gone)"}
    return {
        "pid": pid,
        "command": words.replace(b"\0", b" ").decode(errors="replace").strip()[:120],
    }


def is_there(pid: int) -> bool:
    """Whether there is such a process, also one that /proc hides from us (ProtectProc=)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def link(path: str) -> str:
    """Return where a link of /proc points; empty if it is gone or not ours to see."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def read(path: str) -> bytes:
    """Return the content of a file of /proc; empty if it is gone or not ours to see."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall() or b""
    except OSError:
        return b""


def entries(path: str) -> list[str]:
    """Return the names in a directory of /proc; none if it is gone or not ours to see."""
    try:
        return os.listdir(path)
    except OSError:
        return []
