"""A study and a store, for Python: what a search has found, and what is done with it.

    study = rankray.search("search.yaml")          # or rankray.TrialStore(url)["name"]
    study.best["params"]
    study.report("report.html")
    study.confirm()["verdict"]["word"]
    study.export("model")

Each does what the command of its name does. What a user can fix is raised as a `rankray.errors.UserError`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.config import Config, default_store
from rankray.errors import as_arguments

if TYPE_CHECKING:
    from rankray.contracts import Observer
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)


def url_of(store: str | None) -> str:
    """Return the URL of a store that may be left out: then RANKRAY_STORE, or the SQLite file in the current directory.

    Raises:
        StoreError: it is no text. It is not shown, for it may hold a password.
    """
    from rankray.errors import StoreError

    if store is not None and not isinstance(store, str):
        raise StoreError(
            f"store: got a {type(store).__name__}; allowed: a URL as text, as in 'sqlite:////directory/rankray.db' for "
            "a file; write it so"
        )
    return store or default_store()


@contextmanager
def watched(study: StudyStore, config: Config, show: bool) -> Iterator[Observer]:
    """Yield what a study's trials are reported to while it runs: the view, where it is wanted, and its trackers."""
    from rankray.cli.common import board_of
    from rankray.cli.tracking import tracking
    from rankray.report.notebook import watching_python
    from rankray.search.news import News

    shown: AbstractContextManager[Observer] = watching_python(board_of(study)) if show else nullcontext(News())
    with shown as view, tracking(study, config) as trackers:
        yield News(view, *trackers)


class Study:
    """A study in a store, to look at.

    >>> import rankray
    >>> study = rankray.TrialStore(url)["demo"]
    >>> study.status["trials"]["complete"] + study.status["trials"]["pruned"] == len(study.trials)
    True
    >>> study.confirmed is None  # until `rankray confirm demo` has chosen a trial
    True

    Args:
        name: of the study.
        store: URL of the store; it may hold a password, and is never shown.

    Raises:
        StoreError: there is no such study, or the URL is wrong.
    """

    def __init__(self, name: str, store: str) -> None:
        self.name, self._url = name, url_of(store)
        from rankray.config.lenient import unfit

        with self._study() as study:  # a name that is none is refused now, and not at the first question
            if line := unfit(study.name, study.refused):
                logger.warning(line)

    def __repr__(self) -> str:
        return f"<rankray study {self.name}>"

    @property
    def config(self) -> Config:
        """What the study was begun with."""
        with self._study() as study:
            config: Config = study.config
        return config

    @property
    def status(self) -> dict[str, Any]:
        """How far it is, as `rankray status --json`."""
        from rankray.store import views

        with self._study() as study:
            return views.status(study)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial, or None where none is complete."""
        from rankray.store import views

        with self._study() as study:
            return views.best(study)

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """The trial that `rankray confirm` chose on new seeds, with its `verdicts`, or None; see `views.confirmed`."""
        from rankray.store import views

        with self._study() as study:
            return views.confirmed(study)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials, in the order of their numbers."""
        from rankray.store import views

        with self._study() as study:
            return views.trials(study)

    def trial(self, number: int) -> dict[str, Any]:
        """Return one trial with every report, as `rankray show --json`."""
        from rankray.store import views

        with self._study() as study:
            return views.trial(study, number)

    @as_arguments()
    def report(self, path: str | Path = "report.html", kind: str = "") -> Path:
        """Write one file that says what the study found, as `rankray report`; return its path.

        >>> import rankray
        >>> page = rankray.TrialStore(url)["demo"].report(place + "-report.html")
        >>> page.suffix, page.stat().st_size > 100_000
        ('.html', True)

        Args:
            path: of the file; one that is there is written over if it ends as a report does.
            kind: html, md, json, csv or png; empty goes by the path.

        Raises:
            UserError: the path cannot be written, or another file is there.
        """
        from rankray.cli.pages import check_page
        from rankray.report.write import format_of, render, write
        from rankray.store.overview import overview

        path = Path(path)
        kind = format_of(kind, path)
        check_page(path, "report:")
        with self._study() as study:
            found = overview(study)
        write(render(found, kind), path)
        return path

    @as_arguments()
    def evaluate(self, split: str = "eval", overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Evaluate the model of the trial to use, as `rankray evaluate NAME`.

        >>> import rankray
        >>> found = rankray.TrialStore(url)["demo"].evaluate()
        >>> sorted(found["eval/nll"])
        ['n', 'stderr', 'value']

        Args:
            split: `eval`, or `test`: `data.test`, which no search reads.
            overrides: dotted path -> value, as with `--set`: of `model`, `data` and `evaluate`.

        Returns:
            metric -> `{"value", "stderr", "n"}`.

        Raises:
            UserError: there is no such split, or no checkpoint.
        """
        from rankray.cli.judge import (
            changes,
            check_overrides,
            check_split,
            checkpoint_of,
            figures,
            judged,
            trial_to_use,
            with_overrides,
        )
        from rankray.cli.lineage import other_base

        check_split(split)
        check_overrides(overrides or {}, split)
        with self._study() as study:
            best = trial_to_use(study)
            config = with_overrides(judged(study.config, study, best), overrides or {})
            changed = changes(study, config, split)
            with checkpoint_of(study, best) as checkpoint:
                for line in filter(None, [*changed, other_base(checkpoint, config)]):
                    logger.warning(line)
                return figures(config, checkpoint, split)

    @as_arguments()
    def confirm(
        self,
        *,
        plan: bool = False,
        finalists: int | None = None,
        choose_seeds: int | None = None,
        seeds: int | None = None,
        looks: Sequence[int] | None = None,
        spending: str | None = None,
        metric: str = "",
        label: str = "",
        overrides: Mapping[str, Any] | None = None,
        show: bool = True,
        verbose: bool = False,
    ) -> dict[str, Any]:
        """Compare the winner with plain SFT at its own best rate, on new seeds, as `rankray confirm`; again resumes.

        >>> import rankray
        >>> figures = rankray.TrialStore(url)["demo"].confirm(plan=True, finalists=1, seeds=3)
        >>> figures["study"], figures["metric"]
        ('demo', 'eval/nll')

        Args:
            plan: run nothing, and return what it would run and can tell, as `rankray confirm --plan --json`.
            finalists: settings of the search to try again, and of plain SFT; 5.
            choose_seeds: new seeds of each of them, to choose one; 2.
            seeds: further seeds of the chosen one and of plain SFT, to decide; 8.
            looks: numbers of seeds after which to decide, as (4, 8, 12, 16).
            spending: how looks share the level: `obrien_fleming` or `pocock`.
            metric: which of the study's metrics decides; its first.
            label: name of a further confirmation of the same search.
            overrides: dotted path -> value, as with `--set`.
            show: show how far it is.
            verbose: show what Ray and the libraries print.

        What is left out is as it was begun with.

        Returns:
            the verdict, as `rankray confirm --json`.

        Raises:
            UserError: something in it cannot work; nothing was started.
            KeyboardInterrupt: it was interrupted; call it again to resume.
        """
        from rankray.cli.confirm import Asked, chosen, compared, figures
        from rankray.report.board import alike_line
        from rankray.search.confirmation import Options
        from rankray.store import views

        several = (looks,) if isinstance(looks, int) else tuple(looks or ())
        given = {"finalists": finalists, "choose_seeds": choose_seeds, "seeds": seeds, "looks": several}
        options = chosen([*given.items(), ("spending", spending)])
        Options.of(options, None)
        with self._study() as study:
            asked = Asked(study, self._url, options, overrides or {}, label, metric, notice=logger.warning)
            if line := alike_line(study.config.study.metric, views.alike(study)):
                logger.warning(line)
            if plan:
                return figures(asked)
            verdict = compared(asked, functools.partial(watched, show=show), verbose=verbose)
        if verdict is None:
            raise KeyboardInterrupt("interrupted; nothing is lost: confirm again to resume")
        return verdict

    @as_arguments()
    def export(
        self,
        directory: str | Path,
        number: int | None = None,
        *,
        merge: bool = False,
        code: bool = False,
    ) -> Path:
        """Write a trial's model, its card and the file that trains it again, as `rankray export`; return the directory.

        >>> import rankray
        >>> made = rankray.TrialStore(url)["demo"].export(place + "-model")
        >>> sorted(each.name for each in made.iterdir() if each.suffix in (".md", ".safetensors", ".yaml"))
        ['README.md', 'model.safetensors', 'rankray.yaml']

        Args:
            directory: a new or empty one.
            number: of the trial; None takes the confirmed one, else the best.
            merge: add LoRA adapters to the base model's weights.
            code: allow `model.trust_remote_code`, which the store asks for.

        Raises:
            UserError: the trial has no checkpoint, or the directory is in use.
        """
        from rankray.cli.export import exported

        made = Path(directory).absolute()
        with self._study() as study:
            exported(study, made, number, merge=merge, code=code)
        return made

    @contextmanager
    def _study(self) -> Iterator[StudyStore]:
        from rankray.store import looking

        with as_arguments(), looking(self._url, self.name) as study:
            yield study


class TrialStore(Mapping[str, "Study"]):
    """A trial store and its studies, to look at: a mapping from name to `Study`.

    >>> import rankray
    >>> list(rankray.TrialStore(url))
    ['demo']

    Args:
        url: `sqlite:///...`, `postgresql://...` and so on; None takes RANKRAY_STORE, or the SQLite file in the current
            directory.

    Raises:
        StoreError: the URL is wrong.
    """

    @as_arguments()
    def __init__(self, url: str | None = None) -> None:
        from rankray.store import validate_url

        self._url = url_of(url)
        validate_url(self._url)

    @as_arguments()
    def __iter__(self) -> Any:
        from rankray.store import list_studies

        return iter(sorted(list_studies(self._url)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in iter(self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a study, or `default` where there is none of this name."""
        return self[name] if name in iter(self) else default

    def __getitem__(self, name: str) -> Study:
        return Study(name, self._url)
