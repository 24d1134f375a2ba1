"""A study in optuna-dashboard: to look at, on this machine alone.

The dashboard can rename and delete studies and tell trials their values, which would break leases, budgets and durable
verdicts. So it gets a storage that refuses every write, does not list the claims studies, names the metric on the axes,
and shows of a trial's attributes what people understand.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from rankray.config.schema import Config
from rankray.errors import StoreError
from rankray.store.backend import connect
from rankray.store.claims import SUFFIX
from rankray.store.delegating import DelegatingStorage
from rankray.store.migrate import CONFIG
from rankray.store.optuna_private import FrozenStudy
from rankray.store.records import PREFIX, end_of, failures_of, origin_of, steps_of
from rankray.store.study import attach

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD")
REFUSED = "dashboard: it shows studies and changes nothing; allowed: looking; use rankray store"
METRIC_NAMES = "study:metric_names"
"""Where Optuna keeps the names that `Study.set_metric_names` sets."""


@contextmanager
def serve_dashboard(url: str, name: str, port: int) -> Iterator[tuple[WSGIServer, str]]:
    """Give a server that is not running yet, and the address of the study in it; port 0 takes a free one.

    Args:
        url: where the store is.
        name: the study.
        port: port on the loopback interface.

    Raises:
        StoreError: there is no such store or study, optuna-dashboard is not installed, or the port is taken.
        StoreUnavailable: the store does not answer.
    """
    study = attach(url, name)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise StoreError("dashboard: optuna-dashboard is not installed; pip install 'rankray[dashboard]'")
    from optuna_dashboard import wsgi

    application = _read_only(wsgi(ShownStorage(connect(url, create=False))))
    try:
        server = make_server(LOOPBACK, port, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise StoreError(
            f"dashboard: port {port} cannot be listened on ({error.strerror or error}); allowed: a free port; 0 takes "
            "one; choose another --port"
        ) from None
    with server:
        yield server, f"http://{LOOPBACK}:{server.server_port}/dashboard/studies/{study.study_id}"


class ShownStorage(DelegatingStorage):
    """A storage that shows studies and changes nothing."""

    @override
    def get_all_studies(self) -> list[FrozenStudy]:
        shown = [each for each in super().get_all_studies() if CONFIG in each.user_attrs]
        return [_with_metric(each) for each in shown if not each.study_name.endswith(SUFFIX)]

    @override
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        config = self.get_study_user_attrs(study_id).get(CONFIG)
        return super().get_study_system_attrs(study_id) | (_names(config) if config else {})

    @override
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [_readable(trial) for trial in super().get_all_trials(study_id, False, states)]

    @override
    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _readable(super().get_trial(trial_id))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise StoreError(REFUSED)

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = _refuse
    create_new_trial = set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


def _read_only(application: WSGIApplication) -> WSGIApplication:
    """Return the application for requests that read; others get 405 and, as the dashboard shows it, the reason."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in READING:
            return application(environ, start_response)
        body = json.dumps({"reason": REFUSED}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Allow", ", ".join(READING)),
        ]
        start_response("405 Method Not Allowed", headers)
        return [body]

    return answer


def _names(config: dict[str, Any]) -> dict[str, Any]:
    return {METRIC_NAMES: [str(config["study"].get("metric", Config.model_fields["study"].default.metric))]}


def _with_metric(study: FrozenStudy) -> FrozenStudy:
    named = copy.copy(study)
    named.system_attrs = {**study.system_attrs, **_names(study.user_attrs[CONFIG])}
    named.user_attrs = {key: value for key, value in study.user_attrs.items() if not key.startswith(PREFIX)}
    return named


def _readable(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial whose attributes are its origin, why it ended, and its last metrics."""
    shown = copy.copy(trial)
    steps = list(steps_of(trial).values())
    end = end_of(trial)
    reasons = [end.get("reason", ""), *(record.reason for record in steps if record.stop)]
    found: dict[str, Any] = {"origin": origin_of(trial)}
    if any(reasons):
        found["reason"] = next(reason for reason in reasons if reason)
    if failures := failures_of(trial):
        found["failed attempts"] = len(failures)
    for record in steps:
        found.update(record.metrics)
    shown.user_attrs = found | end.get("metrics", {})
    return shown


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line per request helps nobody."""
