"""What a training process tells the search: one JSON object with one of these keys."""

REPORT = "report"
"""A `Report`; the trial waits for the verdict."""
OUTCOME = "outcome"
"""An `Outcome`: the trial has ended by itself or by a verdict."""
FAILURE = "failure"
"""`{"reason": ..., "traceback": ...}`: training raised an exception."""
LOST = "lost"
"""`{"reason": ..., "blameless": ..., "nodes": [...]}`: processes that trained the trial are gone; blameless if it is
known that their node is; the nodes are those of the whole group."""
