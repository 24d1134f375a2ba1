"""Files that come with rankray: recipes and cluster files, beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from rankray.errors import ConfigError, nearest

PACKAGE = Path(__file__).resolve().parent.parent
CLUSTERS = {
    "aws": "aws.yaml",
    "gcp": "gcp.yaml",
    "azure": "azure.yaml",
    "slurm": "slurm.sbatch",
    "kubernetes": "kubernetes",
    "local": "local-autoscaling.yaml",
}
"""Name for `rankray init --cluster` -> file or directory."""


def cluster_files() -> Path:
    """Return the directory of the cluster files."""
    inside = PACKAGE / "cluster_files"
    return inside if inside.is_dir() else PACKAGE.parent / "cluster"


def recipes() -> Path:
    """Return the directory of the recipes."""
    inside = PACKAGE / "search_spaces" / "recipes"
    return inside if inside.is_dir() else PACKAGE.parent / "search_spaces" / "recipes"


def write_cluster(name: str, directory: Path) -> Path:
    """Copy a cluster file, or a directory of them, and return the copy.

    Raises:
        ConfigError: there is none of that name, or the copy exists.
    """
    if name not in CLUSTERS:
        raise ConfigError(
            f"--cluster: got {name!r}{nearest(name, CLUSTERS)}; allowed: {', '.join(CLUSTERS)}; choose one"
        )
    source = cluster_files() / CLUSTERS[name]
    copy = directory / source.name
    if copy.exists():
        raise ConfigError(f"--cluster: {str(copy)!r} exists; allowed is a new file; remove it, or go elsewhere")
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)
    return copy
