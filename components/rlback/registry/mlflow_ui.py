"""MLflow's server over the project's registry, on this machine only: `python -m rlback.registry.mlflow_ui --port N`.

One process: MLflow's own command would start a launcher and a child of it, which nothing ends where the launcher is
killed. No job runner and no telemetry (project.TOOL_ENVIRONMENT); it serves what `mlruns/mlflow.db` holds.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid

from rlback.project import find_project
from rlback.registry.mlflow_store import MlflowStore


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m rlback.registry.mlflow_ui")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    store = MlflowStore(find_project().root)
    store.prepare()
    import uvicorn
    from mlflow.environment_variables import _MLFLOW_SERVER_BOOT_ID, _MLFLOW_SGI_NAME
    from mlflow.server import constants

    # Read when MLflow's application is imported, which uvicorn does.
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store.uri,
        constants.ARTIFACT_ROOT_ENV_VAR: store.artifacts.as_uri(),
        constants.ARTIFACTS_DESTINATION_ENV_VAR: store.artifacts.as_uri(),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        _MLFLOW_SGI_NAME.name: "uvicorn",
        _MLFLOW_SERVER_BOOT_ID.name: uuid.uuid4().hex,
    }
    uvicorn.run(
        "mlflow.server.fastapi_app:app", host="127.0.0.1", port=options.port, log_level="warning", workers=1,
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
