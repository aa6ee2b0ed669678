"""Runs in MLflow: one training or evaluation each, with its params and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlback.data.manifest import exclusive
from rlback.registry.mlflow_access import MlflowAccess, refusals
from rlback.registry.mlflow_rules import check_key, short_key, texts

_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100


class MlflowRuns(MlflowAccess):
    """The runs of one project. A run is found again by its key, so that a repeated stage goes on with it."""

    @refusals("start a run")
    def start_run(
        self,
        experiment: str,
        name: str,
        *,
        key: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> str:
        """The id of the run with this key, made when there is none; params it lacks are added.

        Values that are too long for MLflow are cut and end in the SHA-256 of the whole.
        """
        from mlflow.entities import Param

        check_key(key)
        with exclusive(self._lock):
            experiment_id = self._experiment(experiment)
            runs = self._client.search_runs(
                [experiment_id], f"tags.key = '{key}'", order_by=["attributes.start_time ASC"], max_results=1
            )
            run = runs[0] if runs else None
            if run is None:
                run = self._client.create_run(experiment_id, run_name=name, tags=texts(tags, key=key))
            known = run.data.params
            fresh = [Param(k, v) for k, v in texts(params).items() if k not in known]
            for start in range(0, len(fresh), _PARAMS_PER_CALL):
                self._client.log_batch(run.info.run_id, params=fresh[start : start + _PARAMS_PER_CALL])
            return str(run.info.run_id)

    @refusals("log metrics")
    def log_metrics(self, run_id: str, points: Sequence[tuple[int, Mapping[str, float | None]]]) -> None:
        """Adds (step, name -> value) points to a run; the same point twice is kept once.

        For that, a point's time is the start of the run and one millisecond a step.
        """
        if points:
            begin = self._client.get_run(run_id).info.start_time
            self._log_points(
                run_id,
                [
                    (name, value, begin + step, step, None)
                    for step, values in points
                    for name, value in values.items()
                ],
            )

    @refusals("end a run")
    def end_run(self, run_id: str, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Marks a run as ended."""
        self._client.set_terminated(run_id, status)

    def _log_points(
        self, run_id: str, points: Sequence[tuple[str, float | None, int, int, str | None]]
    ) -> None:
        """Writes (name, value, time in ms, step, checkpoint's model_id or None) in as few calls as can be."""
        from mlflow.entities import Metric

        metrics = [
            Metric(short_key(name), float(value), time, step, model_id=model_id)
            for name, value, time, step, model_id in points
            if value is not None
        ]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
