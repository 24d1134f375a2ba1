"""One line per report, for `rankray train`."""

from __future__ import annotations

from collections.abc import Callable

from rankray.contracts import Report, Verdict
from rankray.report.figures import metrics_among, with_error


class LineReporter:
    """A reporter that prints each report, passes checkpoints on, and never stops a trial.

    Args:
        say: prints a line.
        max_steps: steps of the whole run, for the line.
        committed: called with each checkpoint once it is complete.
        reported: called with each report, for trackers.

    Attributes:
        interrupted: why the trial is to save a checkpoint after its present step, and to leave; empty while it is not.
        checkpoint: the last complete checkpoint, or None.
        reported: see above; may be set later.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        max_steps: int,
        committed: Callable[[str], None],
        reported: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self._say, self._max_steps, self._committed, self.reported = say, max_steps, committed, reported
        self.interrupted = ""
        self.checkpoint: str | None = None

    def preemption(self) -> str:
        """Return why the trial is to leave, or an empty string."""
        return self.interrupted

    def note(self, text: str) -> None:
        """Print what a person may want to know beside the metrics."""
        self._say(text)

    def report(self, report: Report) -> Verdict:
        """Print the report; the verdict is to continue."""
        names = metrics_among(report.metrics)
        figures = "  ".join(f"{name} {with_error(report.metrics, name)}" for name in names)
        self._say(f"step {report.step}/{self._max_steps}  {figures}")
        if report.checkpoint:
            self.checkpoint = report.checkpoint
            self._committed(report.checkpoint)
        self.reported(report)
        return Verdict(stop=False)
