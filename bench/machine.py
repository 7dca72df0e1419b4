"""What ran it: enough to tell whether two runs may be compared, and nothing that names the machine or its user."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import cgroup

LIBRARIES = (
    "feedbench", "tensorflow", "keras", "numpy", "h5py", "lmdb", "pillow", "simplejpeg", "opencv-python-headless",
    "pytest-benchmark", "scipy", "torch", "grain", "webdataset", "nvidia-dali-cuda120",
)  # fmt: skip


def environment(data: Path | None = None) -> dict[str, Any]:
    """The machine, its limits and its software, as plain values. ``data`` is where the datasets lie."""
    processors = sorted(os.sched_getaffinity(0))
    found: dict[str, Any] = {
        "cpu_model": _cpu_model(),
        "cpus": os.cpu_count(),
        "processors": processors,
        "threads_a_pool": len(processors),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "unknown",
        "memory_bytes": _meminfo("MemTotal"),
        "cgroup": cgroup.limits(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: number for name in LIBRARIES if (number := _version(name))},
        "bilinear_resize": _bilinear_resize(),
        "git_revision": _git_revision(),
        "gpus": gpus(),
    }
    if data is not None:
        found |= _filesystem(data)
    return found


def environment_id(found: dict[str, Any]) -> str:
    """A short digest: records with the same id come from the same machine and software."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def weather() -> dict[str, Any]:
    """What changes from minute to minute: free memory, load, throttling."""
    return {
        "free_memory_bytes": _meminfo("MemAvailable"),
        "load_1m": os.getloadavg()[0],
        "throttled_us": None if (held := cgroup.throttled_ns()) is None else held // 1000,
    }


def gpus() -> list[str]:
    """The models, as the driver names them."""
    lines = [
        line
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in (_read(path) or "").splitlines()
    ]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]


def _cpu_model() -> str:
    lines = (_read(Path("/proc/cpuinfo")) or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _meminfo(field: str) -> int | None:
    lines = (_read(Path("/proc/meminfo")) or "").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def _filesystem(path: Path) -> dict[str, Any]:
    """Filesystem and kind of device under a path, from the longest mount point above it; no mount paths."""
    where = path.resolve()
    best, kind, device = Path("/"), "unknown", 0
    for line in (_read(Path("/proc/self/mountinfo")) or "").splitlines():
        fields = line.split()
        mount = Path(fields[4])
        if where.is_relative_to(mount) and len(mount.parts) >= len(best.parts):
            best, kind = mount, fields[fields.index("-") + 1]
            major, minor = map(int, fields[2].split(":"))
            device = os.makedev(major, minor)
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    rotational = _read(block / "queue" / "rotational") or _read(block.resolve().parent / "queue" / "rotational")
    return {"filesystem": kind, "device": {"0": "solid state", "1": "rotating"}.get(rotational or "", "unknown")}


def _git_revision() -> str:
    """The checkout's revision, with ``+`` for uncommitted changes; ``unknown`` outside one."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "unknown"
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _bilinear_resize() -> str:
    """Whose code resizes: the pixels are the same."""
    from storage import pixels

    return "compiled, AVX2" if pixels.COMPILED else "OpenCV's"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
