"""What the parts of one running search share: which trials are live, and whether to stop.

A search stops early for one of three reasons: somebody interrupted it, too many trials failed, or the store stayed
away. Failures are systematic when the first `SYSTEMATIC` trials of a launch all fail; after a success, a launch
stops when failures outnumber both `MANY` and the trials that succeeded in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SYSTEMATIC = 3
MANY = 10


@dataclass
class Control:
    """Shared state of one launch; touched by the driver's thread and, for `interrupt`, by a signal handler."""

    live: set[int] = field(default_factory=set)
    deaths: dict[int, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    first_error: str = ""
    error: str = ""
    interrupted: bool = False

    @property
    def stopping(self) -> bool:
        """Whether no further trial should start and running ones should end."""
        return self.interrupted or bool(self.error)

    def success(self) -> None:
        """A trial finished."""
        self.succeeded += 1

    def failure(self, number: int, reason: str, traceback: str) -> None:
        """A trial failed for good; decide whether that was one too many."""
        self.failed += 1
        self.first_error = self.first_error or f"trial {number}: {reason}\n{traceback}".rstrip()
        if self.failed >= SYSTEMATIC and not self.succeeded:
            self.error = f"the first {self.failed} trials all failed; the first error was\n\n{self.first_error}"
        elif self.failed >= MANY and self.failed > self.succeeded:
            self.error = (
                f"{self.failed} trials failed and {self.succeeded} did not; the first error was\n\n{self.first_error}"
            )
