"""``--processes auto``: the CPUs that the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vsgi_fcgi.supervisor.config import SupervisorConfig, usable_cpus

HAS = len(os.sched_getaffinity(0))


def made(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, HAS),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, HAS),
        # The quota of a parent limits, too.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
            },
            1,
        ),
        # Half a CPU more than one is worth a second process.
        (
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
            min(HAS, 2),
        ),
        # In a container, the path is the host's.
        (
            {"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n3:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            HAS,
        ),
    ],
)
def test_quotas(files: dict[str, str], count: int, tmp_path: Path) -> None:
    assert usable_cpus(made(tmp_path, files)) == count


def test_one_cpu_of_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cpus(str(tmp_path)) == 1


def test_numbers() -> None:
    assert SupervisorConfig().process_count == 1
    assert SupervisorConfig(processes=3).process_count == 3
    assert SupervisorConfig(processes=0).process_count == usable_cpus()
