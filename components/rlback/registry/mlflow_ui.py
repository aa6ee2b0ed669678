"""MLflow's server over the project's registry, on this machine only: `python -m rlback.registry.mlflow_ui --port N`.

Started as MLflow's own command starts it, without the job runner and without telemetry; it serves what
`mlruns/mlflow.db` holds and writes nowhere else.
"""

from __future__ import annotations

import argparse
import os
import sys

from rlback.project import find_project
from rlback.registry.mlflow_store import MlflowStore


def main(arguments: list[str] | None = None) -> int:
    """Becomes MLflow's server."""
    parser = argparse.ArgumentParser(prog="python -m rlback.registry.mlflow_ui")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    project = find_project()
    store = MlflowStore(project.root)
    store.prepare()
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--default-artifact-root",
        store.artifacts.as_uri(), "--serve-artifacts", "--artifacts-destination", store.artifacts.as_uri(),
        "--host", "127.0.0.1", "--port", str(options.port), "--workers", "1",
    ]  # fmt: skip
    os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
