"""The events that a training process sends to the search: one JSON object with one of these keys."""

REPORT = "report"
"""A `Report`; the trial waits for the verdict."""
OUTCOME = "outcome"
"""An `Outcome`: the trial has ended by itself or by a verdict."""
FAILURE = "failure"
"""`{"reason": ..., "traceback": ...}`: training raised an exception."""
DAMAGED = "damaged"
"""`{"checkpoint": ..., "reason": ...}`: the trial did not start, because it cannot be resumed from that checkpoint."""
BEAT = "beat"
"""Nothing has happened, and the process answers; its identity, as `cluster.processes.this_worker` returns it."""
NOTE = "note"
"""A line for people; the trial continues."""
LOST = "lost"
"""`{"reason": ..., "blameless": ..., "nodes": [...]}`: processes that trained the trial are gone. `blameless` if their
node is known to be gone too; `nodes` are the nodes of the whole group. With `"ends": true` the process was handed the
trial, never began it, and ends. With `"silent": true` they did not answer any more, and were ended."""
