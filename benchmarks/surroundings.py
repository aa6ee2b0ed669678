"""On what a figure was measured: processor, versions, commit. No torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers")
#: Instruction sets on which the rate of matrix products depends.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose speed is measured; "absent" for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def cpu(path: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model, cores this process may use, and the instruction sets that matter."""
    fields: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text().split("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    model = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:  # virtual machines often give no more than the maker as the name
        model += f" (family {fields['cpu family']}, model {fields['model']})"
    return {"model": model, "cores": cores, "flags": [flag for flag in FLAGS if flag in flags], "system": sys.platform}


def commit(root: Path) -> str:
    """The commit of a checkout, with "+changes" when the measured code differs from it; "unknown" outside of git."""

    def ask(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--", "components", "benchmarks/*.py", "constraints.txt")
    return "unknown" if head is None else head + ("+changes" if changed else "")
