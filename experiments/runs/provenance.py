"""Provenance of a run: revision, versions and device, for `meta.json`."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
"""Vector extensions by CPU flag, the widest first."""

JAX_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
PACKAGES = ("gru-jax", *JAX_PACKAGES, "numpy", "scikit-learn")


def provenance() -> dict[str, Any]:
    """Returns the git revision, the versions of Python and the packages, and the device."""
    device = jax.devices()[0]
    return {
        **git_state(Path(__file__).parents[2]),
        "versions": {
            "python": platform.python_version(),
            **{package: version for package in PACKAGES if (version := _version(package))},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cpu_cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "cpu": cpu(Path("/proc/cpuinfo")),
            "machine": platform.machine(),
        },
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Returns the git revision of a checkout, and the tracked files that differ from it.

    A folder that is no checkout itself, such as site-packages, has none, even inside of one.
    """
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {
        "git_revision": _git(folder, "rev-parse", "HEAD"),
        "git_changed_files": changed.splitlines(),
    }


def cpu(cpuinfo: Path) -> str | None:
    """Returns the processor's name and its widest vector extension, from Linux's cpuinfo.

    The vector width determines the speed of matmuls, and virtual machines often hide the name.

    Returns:
        The text, or None without such a file or such fields.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    fields = {name.strip(): value for name, _, value in (line.partition(": ") for line in lines)}
    flags = {*fields.get("flags", "").split(), *fields.get("Features", "").split()}
    vectors = next((name for flag, name in VECTORS.items() if flag in flags), None)
    return ", ".join(filter(None, (fields.get("model name"), vectors))) or None


def _version(package: str) -> str | None:
    """Returns the version of a package; None if it is absent, as some are for the benchmarks."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)},
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.rstrip("\n")
