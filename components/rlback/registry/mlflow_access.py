"""The way into MLflow: its environment, its errors, its pages of results, and how its database is made."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rlback.data.manifest import exclusive
from rlback.errors import RegistryError
from rlback.registry.mlflow_rules import check_name, tracking_uri

#: Read by MLflow at import: no telemetry, no pickle, no job runner, no chatter between our own lines.
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turns what MLflow refuses into a RegistryError that says what was tried."""
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryError(f"MLflow could not {what}: {reason}") from error
    except DBAPIError as error:  # of its database, before MLflow has it under its own care
        raise RegistryError(
            f"MLflow could not {what}: its database cannot be used: {error.orig}",
            remedy="see that you may write in mlruns/; where the file is damaged, restore mlruns/ from a backup",
        ) from error


def _make_client(uri: str) -> Any:
    """An `MlflowClient` for a tracking address; it opens the database on first use."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def or_none(read: Callable[[], Any]) -> Any:
    """What a read gives, or None where MLflow says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return read()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """All rows of a search, page after page."""
    page = search(*arguments, **options)
    rows = list(page)
    while page.token:
        page = search(*arguments, **options, page_token=page.token)
        rows += page
    return rows


def _make_sqlite(database: Path, artifacts: Path) -> None:
    """Runs MLflow's migrations in memory and puts the result in its place.

    On a disk each of the migrations' many small transactions waits for the disk: several times as long, and a
    kill leaves half a schema. (The models' own `create_all` is no way round them: SQLite refuses one of its
    indexes.)
    """
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = database.with_name(f".{database.name}.part")
    database.parent.mkdir(parents=True, exist_ok=True)
    for left in database.parent.glob(f"{part.name}*"):
        left.unlink()
    memory = utils.create_sqlalchemy_engine("sqlite:///:memory:")
    utils._initialize_tables(memory)
    with closing(sqlite3.connect(part)) as file, closing(memory.raw_connection()) as connection:
        connection.driver_connection.backup(file)
        # Stays with the file: readers and a writer do not wait for each other, a write flushes once.
        file.execute("PRAGMA journal_mode=WAL")
    memory.dispose()
    # The first opening adds MLflow's experiment "Default"; its place would else be the current directory.
    SqlAlchemyStore(f"sqlite:///{part}", artifacts.as_uri()).engine.dispose()
    os.replace(part, database)


class MlflowAccess:
    """One project's way into MLflow. Opens nothing before it is used."""

    def __init__(self, root: Path) -> None:
        """Raises ConfigError when MLFLOW_TRACKING_URI names something that is not supported."""
        self.root = root.resolve()
        self.artifacts = self.root / "mlruns" / "artifacts"
        self.uri = tracking_uri(self.root)
        locks = self.root / ".rlback" / "locks"
        self._lock, self._prepare_lock = locks / "mlflow.lock", locks / "mlflow-prepare.lock"
        self._experiments: dict[str, str] = {}

    @refusals("make its database")
    def prepare(self) -> None:
        """Makes the database with MLflow's own migrations; what exists is left as it is.

        Safe when several processes call it at once, and after a kill: the file appears whole or not at all.
        """
        if self.uri.startswith("sqlite:///"):
            database = Path(self.uri.removeprefix("sqlite:///"))
            if not database.exists():
                with exclusive(self._prepare_lock):
                    if not database.exists():
                        _make_sqlite(database, self.artifacts)
        elif not self._is_server:
            with exclusive(self._prepare_lock):
                _make_client(self.uri).search_experiments(max_results=1)

    def require_made(self) -> None:
        """Refuses to make a database anew where there was one.

        Raises:
            RegistryError: MLflow's database is a file, and the file is gone.
        """
        if self.uri.startswith("sqlite:///") and not Path(self.uri.removeprefix("sqlite:///")).exists():
            raise RegistryError(
                f"MLflow's database {self.shown} is gone, but the ledger has versions that were registered in it",
                remedy="restore mlruns/ from a backup that is as new as the ledger",
            )

    @property
    def shown(self) -> str:
        """Its address as it may be printed: a file's path, or a URL without name, password and query."""
        if self.uri.startswith("sqlite:///"):
            return self.uri.removeprefix("sqlite:///")
        parts = urlparse(self.uri)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def _is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @cached_property
    def _client(self) -> Any:
        self.prepare()
        return _make_client(self.uri)

    def _experiment(self, name: str) -> str:
        """The id of an experiment, made when there is none."""
        from mlflow.exceptions import MlflowException

        if name not in self._experiments:
            check_name("experiment", name)
            found = self._client.get_experiment_by_name(name)
            if found is None:
                where = None if self._is_server else (self.artifacts / name).as_uri()
                try:
                    self._client.create_experiment(name, artifact_location=where)
                except MlflowException:  # another machine was faster, or it cannot be made
                    if self._client.get_experiment_by_name(name) is None:
                        raise
                found = self._client.get_experiment_by_name(name)
            self._experiments[name] = found.experiment_id
        return self._experiments[name]
