"""A run as MLflow has it. The client is asked for one thing at a time, and each request is bounded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from distrain.job.schema import Job
from distrain.log.address import without_password
from distrain.log.backlog import Point
from distrain.log.tracking import ADDRESS

# What a request to MLflow may hold.
MOST_METRICS, MOST_PARAMETERS, LONGEST_VALUE = 1000, 100, 6000
_UNKNOWN_SIGN = re.compile(r"[^A-Za-z0-9_\-. :/]")
STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflowRun:
    """The run of `job` called `name`, the one with the number `run` where it was begun before.

    All methods raise whatever the client or its store raises where the server does not do what it is asked for.
    """

    def __init__(self, job: Job, name: str, run: str | None, *, about: Mapping[str, str]) -> None:
        options = job.log.mlflow
        assert options is not None
        self._client = MlflowClient(tracking_uri=options.uri)
        self._experiment = _experiment(job)
        if run is None:
            tags = {f"distrain.{key}": value for key, value in about.items()}
            run = self._client.create_run(self._experiment_number(), run_name=name, tags=tags).info.run_id
            self._known: dict[str, str] = {}
        else:
            self._known = dict(self._client.get_run(run).data.params)
            self._client.update_run(run, status="RUNNING")
        self.run: str = run

    @staticmethod
    def where(job: Job) -> str:
        """The server and the experiment that have a run of `job`."""
        assert job.log.mlflow is not None
        return f"{without_password(job.log.mlflow.uri or os.environ[ADDRESS])} {_experiment(job)}"

    @property
    def place(self) -> str:
        """Where the run is to be found."""
        return f"run {self.run} of experiment '{self._experiment}' at {self._client.tracking_uri}"

    def parameters(self, parameters: Mapping[str, str]) -> None:
        """Tell the job's keys. MLflow holds to the value that it was told first; what it is now is a tag then."""
        named = {_UNKNOWN_SIGN.sub("_", key): value[:LONGEST_VALUE] for key, value in parameters.items()}
        fresh = iter([Param(key, value) for key, value in named.items() if key not in self._known])
        while part := list(islice(fresh, MOST_PARAMETERS)):
            self._client.log_batch(self.run, params=part)
        for key, value in named.items():
            if self._known.get(key, value) != value:
                self._client.set_tag(self.run, f"now.{key}", value)
        self._known = named | self._known

    def points(self, points: Sequence[Point]) -> None:
        """Tell the numbers of some records."""
        metrics = (
            Metric(name, value, round(1000 * point.time), point.step)
            for point in points
            for name, value in point.values.items()
        )
        while part := list(islice(metrics, MOST_METRICS)):
            self._client.log_batch(self.run, metrics=part)

    def picture(self, path: Path, step: int) -> None:
        """Hand over a picture."""
        self._client.log_artifact(self.run, str(path), "predictions")

    def end(self, how: str) -> None:
        """Say how the run has ended: "finished", "stopped" (to go on later) or "failed"."""
        self._client.log_batch(self.run, tags=[RunTag("distrain.end", how)])
        self._client.set_terminated(self.run, STATES[how])

    def leave(self) -> None:
        """Nothing to let go of: each request stands for itself."""

    def _experiment_number(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        number: str = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        return number


def _experiment(job: Job) -> str:
    assert job.log.mlflow is not None
    return job.log.mlflow.experiment or job.name
