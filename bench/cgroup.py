"""The control group that this process lives in: its limits, and for how long they held its processes up. Versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
ROOT = Path("/sys/fs/cgroup")
LIMITS = {
    "": ("cpu.max", "memory.max", "io.max"),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "memory": ("memory.limit_in_bytes",),
}
"""What may be limited, by controller; version 2 has one tree for all of them."""
UNLIMITED = ("max", "-1", "9223372036854771712")


def limits(proc: Path = PROC, root: Path = ROOT) -> dict[str, str]:
    """The limits that hold, innermost first, by their files' names; what is unlimited is left out."""
    found: dict[str, str] = {}
    for controller, names in LIMITS.items():
        for folder in _folders(controller, proc, root):
            for name in names:
                value = _read(folder / name)
                if value and value.split()[0] not in UNLIMITED:
                    found.setdefault(name, value)
    if "cpu.cfs_quota_us" not in found:
        found.pop("cpu.cfs_period_us", None)
    return found


def throttled_ns(proc: Path = PROC, root: Path = ROOT) -> int | None:
    """Nanoseconds for which the limit held processes of the group up so far; None where nobody counts them."""
    for controller in ("", "cpu"):
        for folder in _folders(controller, proc, root):
            for line in (_read(folder / "cpu.stat") or "").splitlines():
                name, _, value = line.partition(" ")
                if name == "throttled_usec":
                    return int(value) * 1000
                if name == "throttled_time":
                    return int(value)
    return None


def _folders(controller: str, proc: Path, root: Path) -> Iterator[Path]:
    """The group's folder in a controller's tree, then those above it. A container may see its own group as the root."""
    for line in (_read(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controller not in controllers.split(",") or (not controller and controllers):
            continue
        trees = [root, root / "unified"] if not controller else [root / controllers, root / controller]
        tree = next((tree for tree in trees if tree.is_dir()), None)
        if tree is None:
            continue
        folder = tree / group.strip("/")
        while folder != tree:
            yield folder
            folder = folder.parent
        yield tree


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
