"""What this machine has, as the Ray that a search starts here will count it; found without importing Ray."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
from pathlib import Path

from rankray.config import LoadedConfig
from rankray.errors import ConfigError

logger = logging.getLogger(__name__)

QUOTAS = ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us")
"""Files that hold a container's share of the CPUs and the period it is of, of either version of control groups."""
OTHER_ACCELERATORS = ("kfd", "accel*", "davinci*", "hl*")
"""Files in /dev of accelerators that nvidia-smi does not know."""


def check_machine(loaded: LoadedConfig, starts: bool = True) -> list[str]:
    """Refuse a trial that asks for more than this machine has, where the search starts a Ray of its own.

    Args:
        loaded: the configuration.
        starts: whether trials start now; where a file is only checked, they may start elsewhere, and it is a warning.

    Returns:
        A warning where the GPUs that are asked for are not here.

    Raises:
        ConfigError: it asks for more CPUs than there are, or for more GPUs than there are, if there are any.
    """
    found: list[str] = []
    resources = loaded.config.resources
    least, _ = resources.worker_range
    elsewhere = "or name a cluster that has them with RAY_ADDRESS"
    cards = override("GPU", gpus()) if resources.gpus_per_worker else None
    for field, each, there in (
        ("cpus_per_worker", float(resources.cpus_per_worker), override("CPU", cpus())),
        ("gpus_per_worker", float(resources.gpus_per_worker), cards),
    ):
        kind = field[:3].upper() + "s"
        if not each or not there or math.floor(there / each + 1e-9) >= least:
            continue
        path = f"resources.{field}"
        asked = f"{each:g} {kind}" if least == 1 else f"{least} workers of {each:g} {kind} each"
        lower = path if least == 1 else f"{path} or resources.workers"
        problem = (
            f"{loaded.where(path)}: {path}: a trial asks for {asked}, and this machine has {there:g}, so no trial "
            f"could ever start here; allowed is what fits; lower {lower}, {elsewhere}"
        )
        if starts:
            raise ConfigError(problem)
        found.append(problem)
    if cards == 0:
        found.append(
            f"{loaded.where('resources.gpus_per_worker')}: resources.gpus_per_worker: this machine has no GPU that "
            f"could be found, so no trial could start here; set it to 0 to train on CPUs, {elsewhere}"
        )
    return found


def cpus() -> int:
    """Return the CPUs of this machine, or of the container this process is in."""
    count = os.cpu_count() or 1
    if os.environ.get("RAY_USE_MULTIPROCESSING_CPU_COUNT"):
        return count
    for files in QUOTAS:
        try:
            quota, period = " ".join(Path(file).read_text(encoding="ascii") for file in files.split()).split()
            if quota.isdigit():
                count = min(count, max(1, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError, ArithmeticError) as error:
            logger.debug("no share of the CPUs in %s: %s", files, error)
    return count


def gpus() -> int | None:
    """Return the NVIDIA GPUs that this process may use; None where another accelerator is here."""
    if any(found for pattern in OTHER_ACCELERATORS for found in Path("/dev").glob(pattern)):
        return None
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("nvidia-smi lists no GPUs: %s", error)
        return 0
    count = sum(line.startswith("GPU ") for line in said.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if visible is None else min(count, len([each for each in visible.split(",") if each.strip()]))


def override(kind: str, found: float | None) -> float | None:
    """Return what RAY_OVERRIDE_RESOURCES says of a kind of resource, or else what was found."""
    try:
        given = json.loads(os.environ.get("RAY_OVERRIDE_RESOURCES") or "{}")
        return float(given.get(kind, found)) if given.get(kind, found) is not None else None
    except (ValueError, AttributeError, TypeError) as error:
        logger.debug("RAY_OVERRIDE_RESOURCES cannot be read: %s", error)
        return found
