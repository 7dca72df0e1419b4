"""Control groups of both versions, as files that a kernel would show."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cgroup


def tree(base: Path, files: dict[str, str]) -> tuple[Path, Path]:
    """(/proc, /sys/fs/cgroup) with these files."""
    for name, text in files.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text + "\n")
    return base / "proc", base / "cgroup"


def test_version_2_takes_the_innermost_limit(tmp_path: Path) -> None:
    where = tree(tmp_path, {
        "proc/self/cgroup": "0::/user/job",
        "cgroup/user/job/cpu.max": "max 100000",
        "cgroup/user/job/memory.max": "1000000000",
        "cgroup/user/job/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500",
        "cgroup/user/cpu.max": "150000 100000",
        "cgroup/user/memory.max": "2000000000",
    })  # fmt: skip
    assert cgroup.limits(*where) == {"cpu.max": "150000 100000", "memory.max": "1000000000"}
    assert cgroup.throttled_ns(*where) == 1_500_000


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    where = tree(tmp_path, {
        "proc/self/cgroup": "4:memory:/job\n2:cpu,cpuacct:/\n0::/",
        "cgroup/memory/job/memory.limit_in_bytes": "500000000",
        "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cgroup/cpu,cpuacct/cpu.stat": "nr_periods 9\nthrottled_time 77",
        "cgroup/unified/cgroup.procs": "",
    })  # fmt: skip
    expected = {"memory.limit_in_bytes": "500000000", "cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}
    assert cgroup.limits(*where) == expected
    assert cgroup.throttled_ns(*where) == 77


@pytest.mark.parametrize("text", ["", "0::/"])
def test_no_limits(tmp_path: Path, text: str) -> None:
    where = tree(tmp_path, {"proc/self/cgroup": text, "cgroup/cpu.max": "max 100000"})
    assert cgroup.limits(*where) == {}
    assert cgroup.throttled_ns(*where) is None


def test_here() -> None:
    assert isinstance(cgroup.limits(), dict)
    assert (cgroup.throttled_ns() or 0) >= 0
