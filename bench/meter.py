"""What a process tree has used so far, from /proc: CPU, page faults, bytes read, memory, threads. Reads no clock."""

from __future__ import annotations

import os
import resource
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench import cgroup

PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """Totals of a process tree since its processes began.

    ``asked_bytes`` went through read calls (a mapped file's did not); ``device_bytes`` came from a block device.
    ``machine_ns`` and ``idle_ns``, ``steal_ns`` are the whole machine's; ``throttled_ns`` is for how long the control group's
    limit held its processes up, None where there is no such account.
    """

    cpu_ns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    asked_bytes: int = 0
    device_bytes: int = 0
    machine_ns: int = 0
    idle_ns: int = 0
    steal_ns: int = 0
    throttled_ns: int | None = None

    def __sub__(self, other: Usage) -> Usage:
        mine, theirs = asdict(self), asdict(other)
        return Usage(**{name: mine[name] - theirs[name] for name in mine if None not in (mine[name], theirs[name])})

    @property
    def steal_share(self) -> float | None:
        """Share of the machine's processor time that a hypervisor gave to others."""
        return self.steal_ns / self.machine_ns if self.machine_ns > 0 else None

    @property
    def neighbour_share(self) -> float | None:
        """Share of the machine's processor time that other processes used."""
        if self.machine_ns <= 0:
            return None
        return max(0.0, self.machine_ns - self.idle_ns - self.steal_ns - self.cpu_ns) / self.machine_ns


def usage() -> Usage:
    """What this process and its living children have used, and the machine's own counters."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_ns = sum(round((r.ru_utime + r.ru_stime) * 1e9) for r in (own, ended))
    minor, major = own.ru_minflt + ended.ru_minflt, own.ru_majflt + ended.ru_majflt
    asked, device = _bytes_read(os.getpid())
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    for pid in children(os.getpid()):
        stat = _stat(pid)
        if stat:
            cpu_ns += (int(stat[11]) + int(stat[12])) * tick_ns
            minor, major = minor + int(stat[7]), major + int(stat[9])
        child_asked, child_device = _bytes_read(pid)
        asked, device = asked + child_asked, device + child_device
    return replace(machine(), cpu_ns=cpu_ns, minor_faults=minor, major_faults=major, asked_bytes=asked, device_bytes=device)


def machine() -> Usage:
    """The machine's own counters alone."""
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    spent = [int(value) * tick_ns for value in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return Usage(machine_ns=sum(spent), idle_ns=spent[3] + spent[4], steal_ns=spent[7], throttled_ns=cgroup.throttled_ns())


def children(pid: int) -> list[int]:
    """Living descendants of a process, without itself."""
    found: list[int] = []
    for task in _listed(PROC / str(pid) / "task"):
        try:
            text = (task / "children").read_text()
        except OSError:
            continue
        for child in map(int, text.split()):
            found += [child, *children(child)]
    return found


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process and its descendants: what is theirs, not the page cache's."""
    total = 0
    for member in [pid, *children(pid)]:
        try:
            status = (PROC / str(member) / "status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
    return total


def threads(pid: int) -> int:
    """Threads of a process and its descendants."""
    return sum(len(_listed(PROC / str(member) / "task")) for member in [pid, *children(pid)])


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name, so that index 0 is the state; empty if the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _bytes_read(pid: int) -> tuple[int, int]:
    try:
        lines = (PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0, 0
    values = dict(line.split(": ") for line in lines)
    return int(values["rchar"]), int(values["read_bytes"])
