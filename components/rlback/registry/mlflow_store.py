"""Checkpoints, versions, aliases and runs in MLflow.

A checkpoint is a LoggedModel with exactly the files of a checkpoint directory, no flavor and no pickle. It is
copied beside its place, verified against its manifest, renamed, and only then READY: what a killed process
left PENDING is taken up by the next call with the same digest and is never listed. MLflow keeps no history
of tags and aliases; what is approved is decided by the ledger, and this store mirrors it.

The database is `mlruns/mlflow.db` of the project, or what MLFLOW_TRACKING_URI names (a database or a server).
Places are computed from the project directory, never taken from the current directory or trusted from the
database, so a project can be moved and a forged location leads nowhere. Weights that lie in an object store
are kept in `.rlback/checkpoints/` too, once uploaded or fetched.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlback.data.manifest import exclusive
from rlback.errors import CheckpointError, RegistryError
from rlback.models.manifest import verify_checkpoint
from rlback.records import CheckpointKind, CheckpointRef
from rlback.registry.mlflow_access import or_none, pages, refusals
from rlback.registry.mlflow_rules import (
    below_artifacts,
    check_digest,
    check_key,
    check_name,
    is_local,
    place,
    short,
    short_key,
    texts,
)
from rlback.registry.mlflow_runs import MlflowRuns


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint directory to be logged; `digest` is its root digest, `step` the training step it is of."""

    directory: Path
    name: str
    digest: str
    kind: CheckpointKind
    step: int | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VersionInfo:
    """One model version. Digest, model_id and location are empty where somebody else registered it."""

    version: int
    digest: str
    model_id: str
    location: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


class MlflowStore(MlflowRuns):
    """The MLflow side of one project directory.

    Every public method raises RegistryError when MLflow refuses.
    """

    @refusals("store a checkpoint")
    def log_checkpoints(
        self, checkpoints: Sequence[NewCheckpoint], *, experiment: str, run_id: str | None = None
    ) -> list[CheckpointRef]:
        """Stores checkpoint directories, each once per (experiment, name, digest); returns them in order.

        Metrics are kept with the checkpoint and with the run; without a run they become tags `metric.NAME`.

        Raises:
            CheckpointError: a directory is not, byte for byte, what its manifest and digest say.
            ConfigError: a name cannot be used.
        """
        for new in checkpoints:
            check_name("checkpoint", new.name)
            check_digest(new.digest)
        with exclusive(self._lock):
            experiment_id = self._experiment(experiment)
            wanted = ",".join(f"'{new.digest}'" for new in checkpoints)
            found = self._models([experiment_id], f"tags.digest IN ({wanted})") if checkpoints else []
            held: dict[tuple[str, str], Any] = {}
            for model in sorted(found, key=lambda model: str(model.status) != "READY"):
                held.setdefault((model.name, model.tags["digest"]), model)
            unfinished = []
            for new in checkpoints:
                model = held.get((new.name, new.digest))
                if model is None:
                    model = held[new.name, new.digest] = self._create_model(new, experiment_id, run_id)
                if not self._is_whole(model):
                    self._place(new, model)
                    unfinished.append((new, model))
            if run_id is not None:
                self._log_points(
                    run_id,
                    [
                        (name, value, model.creation_timestamp, new.step or 0, model.model_id)
                        for new, model in unfinished
                        for name, value in new.metrics.items()
                    ],
                )
            for _, model in unfinished:
                self._client.finalize_logged_model(model.model_id, "READY")
            return [self._ref(held[new.name, new.digest]) for new in checkpoints]

    def log_checkpoint(
        self,
        directory: Path,
        *,
        experiment: str,
        name: str,
        digest: str,
        kind: CheckpointKind,
        step: int | None = None,
        tags: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        run_id: str | None = None,
    ) -> CheckpointRef:
        """Stores one checkpoint directory: see `log_checkpoints`."""
        new = NewCheckpoint(directory, name, digest, kind, step, tags or {}, metrics or {})
        return self.log_checkpoints([new], experiment=experiment, run_id=run_id)[0]

    @refusals("look for a checkpoint")
    def find(self, digest: str) -> CheckpointRef | None:
        """The first checkpoint stored with this root digest, in any experiment; None when there is none."""
        check_digest(digest)
        experiments = pages(self._client.search_experiments, max_results=1000)
        ids = [experiment.experiment_id for experiment in experiments]
        for model in self._models(ids, f"tags.digest = '{digest}'"):
            if str(model.status) == "READY":
                return self._ref(model)
        return None

    @refusals("find a checkpoint's files")
    def location(self, model_id: str) -> Path:
        """The directory with a stored checkpoint's files, fetched first when they lie in an object store.

        Raises:
            RegistryError: there is no such checkpoint, or it was never stored whole.
            CheckpointError: its files are gone, or what was fetched is not what was stored.
        """
        model = self._client.get_logged_model(model_id)
        if str(model.status) != "READY":
            raise RegistryError(f"checkpoint {model_id} was never stored whole ({model.status})")
        directory = self._directory(model.artifact_location, model_id)
        if not directory.is_dir() and not is_local(model.artifact_location):
            self._fetch(model, directory)
        if not directory.is_dir():
            raise CheckpointError(
                f"the files of checkpoint {model_id} are gone: {directory} does not exist",
                remedy="bring mlruns/ back from a backup",
            )
        return directory

    @refusals("register a version")
    def create_version(
        self, policy: str, ref: CheckpointRef, *, key: str, tags: Mapping[str, Any] | None = None
    ) -> int:
        """Registers a stored checkpoint as the next version of a policy; the same key gives the same version.

        Raises:
            ConfigError: the policy's name cannot be used.
            RegistryError: the checkpoint was not stored whole, or the key names another checkpoint.
        """
        check_name("policy", policy)
        check_key(key)
        with exclusive(self._lock):
            found = self._keyed_versions(policy, key)
            if not found:
                self._create_version(policy, ref, key, tags or {})
                # A process on another machine is not held back by our lock; the lower number counts.
                found = self._keyed_versions(policy, key)
                for doubled in found[1:]:
                    self._client.delete_model_version(policy, str(doubled.version))
            if found[0].tags.get("digest") != ref.digest:
                raise RegistryError(
                    f"{policy}@{found[0].version} was registered as {key} with other weights "
                    f"({found[0].tags.get('digest', '')[:12]}…, not {ref.digest[:12]}…)",
                    remedy="use another key, or look which of the two is meant",
                )
            return int(found[0].version)

    @refusals("list versions")
    def versions(self, policy: str) -> list[VersionInfo]:
        """All versions of a policy, in order; none where there is no such policy."""
        check_name("policy", policy)
        held = self.aliases(policy)
        rows = pages(self._client.search_model_versions, f"name='{policy}'", max_results=1000)
        return [self._info(row, held) for row in sorted(rows, key=lambda row: int(row.version))]

    @refusals("list policies")
    def policies(self) -> list[str]:
        """The names of all registered policies, sorted."""
        return sorted(model.name for model in pages(self._client.search_registered_models, max_results=1000))

    @refusals("read aliases")
    def aliases(self, policy: str) -> dict[str, int]:
        """Alias -> version; empty where there is no such policy."""
        check_name("policy", policy)
        model = or_none(lambda: self._client.get_registered_model(policy))
        return {} if model is None else {alias: int(version) for alias, version in model.aliases.items()}

    @refusals("set an alias")
    def set_alias(self, policy: str, alias: str, version: int) -> None:
        """Moves an alias to a version, which must exist."""
        check_name("alias", alias)
        self._client.set_registered_model_alias(policy, alias, str(version))

    @refusals("delete an alias")
    def delete_alias(self, policy: str, alias: str) -> None:
        """Removes an alias; one that is not there is no error."""
        if alias in self.aliases(policy):
            self._client.delete_registered_model_alias(policy, alias)

    @refusals("tag a version")
    def tag_version(self, policy: str, version: int, tags: Mapping[str, Any]) -> None:
        """Sets tags of a version; others stay as they are."""
        for key, value in tags.items():
            self._client.set_model_version_tag(policy, str(version), short_key(key), short(value))

    def _models(self, experiment_ids: list[str], condition: str) -> list[Any]:
        oldest_first = [{"field_name": "creation_timestamp", "ascending": True}]
        return pages(
            self._client.search_logged_models,
            experiment_ids,
            condition,
            order_by=oldest_first,
            max_results=100,
        )

    def _create_model(self, new: NewCheckpoint, experiment_id: str, run_id: str | None) -> Any:
        loose = {} if run_id else {f"metric.{name}": value for name, value in new.metrics.items()}
        step = {} if new.step is None else {"step": new.step}
        tags = texts(new.tags, **loose, **step, digest=new.digest, kind=new.kind)
        return self._client.create_logged_model(
            experiment_id, name=new.name, source_run_id=run_id, tags=tags, model_type=new.kind
        )

    def _is_whole(self, model: Any) -> bool:
        there = self._directory(model.artifact_location, model.model_id).is_dir()
        return str(model.status) == "READY" and (there or not is_local(model.artifact_location))

    def _place(self, new: NewCheckpoint, model: Any) -> None:
        directory = self._directory(model.artifact_location, model.model_id)
        ours = new.directory.resolve().is_relative_to(self.root / ".rlback")
        place(new.directory, directory, new.digest, new.kind, link=ours)
        if not is_local(model.artifact_location):
            self._client.log_model_artifacts(model.model_id, str(directory))

    def _ref(self, model: Any) -> CheckpointRef:
        directory = self._directory(model.artifact_location, model.model_id)
        return CheckpointRef(model.tags["digest"], model.tags["kind"], model.model_id, str(directory))

    def _directory(self, stored: str, model_id: str) -> Path:
        """Where a checkpoint's files are in this project, given the place that MLflow stored for them."""
        if is_local(stored):
            return self.artifacts / below_artifacts(stored, model_id)
        return self.root / ".rlback" / "checkpoints" / model_id

    def _fetch(self, model: Any, directory: Path) -> None:
        from mlflow.artifacts import download_artifacts

        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            fetched = download_artifacts(
                artifact_uri=model.artifact_location, dst_path=scratch, tracking_uri=self.uri
            )
            verify_checkpoint(fetched, model.tags["digest"])
            if not directory.is_dir():
                os.rename(fetched, directory)

    def _keyed_versions(self, policy: str, key: str) -> list[Any]:
        condition = f"name='{policy}' and tags.key='{key}'"
        rows = pages(self._client.search_model_versions, condition, max_results=1000)
        return sorted(rows, key=lambda row: int(row.version))

    def _create_version(self, policy: str, ref: CheckpointRef, key: str, tags: Mapping[str, Any]) -> None:
        model = self._client.get_logged_model(ref.model_id)
        if str(model.status) != "READY" or model.tags.get("digest") != ref.digest:
            raise RegistryError(
                f"checkpoint {ref.model_id} is {model.status} with digest {model.tags.get('digest')}, "
                f"so it cannot become a version of {policy} with digest {ref.digest}",
                remedy="store the checkpoint again",
            )
        self._directory(model.artifact_location, model.model_id)
        if or_none(lambda: self._client.get_registered_model(policy)) is None:
            self._client.create_registered_model(policy)
        made = self._client.create_model_version(
            policy,
            model.artifact_location,
            run_id=model.source_run_id,
            tags=texts(tags, model_id=ref.model_id, digest=ref.digest, kind=ref.kind, key=key),
            # A server links version and checkpoint itself; without one this would ask MLflow's global client.
            model_id=ref.model_id if self._is_server else None,
            await_creation_for=0,
        )
        if not self._is_server:
            linked = json.loads(model.tags.get("mlflow.modelVersions", "[]"))
            linked.append({"name": policy, "version": int(made.version)})
            self._client.set_logged_model_tags(ref.model_id, {"mlflow.modelVersions": json.dumps(linked)})

    def _info(self, row: Any, held: Mapping[str, int]) -> VersionInfo:
        version, digest, model_id = int(row.version), row.tags.get("digest", ""), row.tags.get("model_id", "")
        location = str(self._directory(row.source, model_id)) if digest and model_id else ""
        aliases = tuple(sorted(alias for alias, at in held.items() if at == version))
        return VersionInfo(version, digest, model_id, location, dict(row.tags), aliases)
