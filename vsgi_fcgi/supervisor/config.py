"""The settings of the supervisor, and the number of CPUs that this process may use."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from vsgi_fcgi.settings import Count, SettingsBase, setting

SUPERVISED_VARIABLE = "VSGI_FCGI_SUPERVISED"
"""Environment variable with the descriptors that a process gets from the supervisor, as JSON."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class SupervisorConfig(SettingsBase):
    """Settings of the process that starts and replaces the processes with the app."""

    processes: Count | None = setting(
        None,
        "number of processes that a supervisor starts and replaces; auto is one per CPU that this"
        " process may use",
        group="processes",
        minimum=0,
        metavar="N|auto",
        default_text="one process, without a supervisor",
        aliases=("--forks",),
    )
    start_timeout: float = setting(
        60.0,
        "seconds that a process may take to load the app before the supervisor kills it",
        group="processes",
        minimum=0.1,
    )

    preload: bool = setting(
        False,
        "load the app once and fork the processes from it; saves memory, but not every app allows"
        " it",
        group="processes",
    )

    @property
    def process_count(self) -> int:
        """The number of processes to start."""
        return 1 if self.processes is None else self.processes or usable_cpus()


def usable_cpus(root: str = "/") -> int:
    """Return the number of CPUs that this process may use, rounded up, and at least 1.

    The affinity of the process and the quota of its control groups (v2 and v1) limit them.

    Args:
        root: the folder that holds ``proc`` and ``sys``, for tests.
    """
    shows = hasattr(os, "sched_getaffinity")
    count = float(len(os.sched_getaffinity(0)) if shows else os.cpu_count() or 1)
    for quota in _quotas(Path(root)):
        count = min(count, quota)
    return max(1, math.ceil(count))


def _quotas(root: Path) -> list[float]:
    """Return the CPU quotas of the control groups of this process, and of their parents."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            top, is_v2 = root / "sys/fs/cgroup", True
        elif "cpu" in controllers.split(","):
            top, is_v2 = root / "sys/fs/cgroup/cpu", False
        else:
            continue
        folder = top / group.lstrip("/")
        # In a container, the path may be the host's, and only the top exists.
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            quota, period = _v2(place) if is_v2 else _v1(place)
            if quota.isdecimal() and period.isdecimal() and int(period):
                found.append(int(quota) / int(period))
    return found


def _v2(folder: Path) -> tuple[str, str]:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return quota, period.strip()


def _v1(folder: Path) -> tuple[str, str]:
    # The quota is -1 if there is none.
    quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota.strip(), period.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
