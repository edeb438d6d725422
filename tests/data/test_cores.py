"""How many cores a process may use: control groups as Linux shows them, in folders of our own."""

import math
import os

import pytest

from jaxdl.data import encoded

CGROUPS = {
    "no groups": ({}, math.inf),
    "version 2, no limit": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        math.inf,
    ),
    "version 2, a container's own": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
        2,
    ),
    "version 2, the tightest around it": (
        {
            "proc/self/cgroup": "0::/job/step\n",
            "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
            "sys/fs/cgroup/job/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/cpu.max": "400000 100000\n",
        },
        1.5,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "9:memory:/job\n1:cpu,cpuacct:/job\n0::/\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    # A container sees its own group as the root, but is told the path that its host has.
    "version 1 in a container": (
        {
            "proc/self/cgroup": "1:cpu,cpuacct:/docker/0123\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "neither": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "?\n"}, math.inf),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_quota(case, tmp_path):
    texts, expected = CGROUPS[case]
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert encoded.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("quota", "cores"), [(math.inf, 64), (100.0, 64), (2.0, 2), (1.5, 2), (0.1, 1)]
)
def test_cores_are_those_of_affinity_and_quota(quota, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(encoded, "quota", lambda: quota)
    assert encoded.cores() == cores
