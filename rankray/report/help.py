"""What explains an error: the last line that the command line prints with it.

An error that `TROUBLES` knows has a heading of its own in `docs/troubleshooting.md`. One that names a field of the
configuration leads to `rankray explain`, which is always at hand. Others lead to the page of their subject.
"""

from __future__ import annotations

import re

from rankray.config import all_fields
from rankray.errors import (
    ClusterError,
    DataError,
    LossError,
    RankrayError,
    StorageError,
    StoreError,
    StoreUnavailable,
    SubmitError,
)

TROUBLES = {  # a fragment of the error -> the heading in docs/troubleshooting.md
    "unknown key": "unknown-key",
    "names no configuration field": "unknown-key",
    "is weighted by the very settings that are searched": "is-weighted-by-the-very-settings-that-are-searched",
    "a study of this name exists and was made from something else": "a-study-of-this-name-exists",
    "trials all failed; the first error was": "the-first-trials-all-failed",
    "store: did not answer for ": "the-store-did-not-answer",
    "store: unreachable": "the-store-did-not-answer",
    " was deleted: study.keep_best keeps those of the best ": "its-checkpoint-was-deleted",
    " is not there, and was not deleted by study.keep_best": "its-checkpoint-was-deleted",
    " is not in the study's storage": "its-checkpoint-is-not-in-the-studys-storage",
    " is damaged: ": "a-checkpoint-is-damaged",
    "the merged model's logits differ by ": "the-merged-models-logits-differ",
    ", which is not installed; ": "which-is-not-installed",
    "not a pass-through field": "not-a-pass-through-field",
    "a picture needs Chromium or Chrome": "a-picture-needs-chromium",
    "; allowed is what fits into ": "what-fits-into",
    ": holds a password, which every user of this machine": "holds-a-password",
    "no chat template; needed is one": "no-chat-template",
    " leaves no completion token of any of the ": "leaves-no-completion-token",
    "; the nodes here have ": "the-nodes-here-have",
    " is full, and the checkpoint of step ": "the-storage-is-full",
    " fails: the checkpoint of step ": "the-storage-fails",
    " cannot be written or read here: ": "the-storage-fails",
    "the trial's process died ": "the-trials-process-died",
    "the trial's process did not answer for ": "the-trials-process-did-not-answer",
    "TimeoutError: no step and no report for ": "no-step-and-no-report",
}
SUBJECTS = {  # how an error begins -> its page
    "confirm: ": "confirm.md",
    "export: ": "looking.md#a-model-to-take-away",
    "report: ": "looking.md#afterwards",
    "evaluate: ": "metrics.md",
    "rehearse: ": "search.md",
    "diagnose": "loss.md",
}
KINDS: dict[type[RankrayError], str] = {  # the first one that fits
    ClusterError: "clusters.md",
    SubmitError: "clusters.md",
    DataError: "data.md",
    LossError: "loss.md",
    StorageError: "clusters.md",
    StoreError: "store.md",
    StoreUnavailable: "store.md",
}


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as Python-Markdown makes it."""
    kept = re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()).strip().lower()
    return re.sub(r"[-\s]+", "-", kept)


def explained_by(error: RankrayError) -> str:
    """Return what explains an error: a page below `docs/`, `rankray explain FIELD`, or an empty string."""
    text = str(error)
    for fragment, heading in TROUBLES.items():
        if fragment in text:
            return f"docs/troubleshooting.md#{heading}"
    for beginning, page in SUBJECTS.items():
        if text.startswith(beginning):
            return f"docs/{page}"
    fields = all_fields()
    for path in re.findall(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)*)(?=: )", text):
        if path in fields:
            return f"rankray explain {path}"
    return next((f"docs/{page}" for kind, page in KINDS.items() if isinstance(error, kind)), "")
