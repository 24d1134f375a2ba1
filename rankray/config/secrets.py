"""Secrets in a configuration: found by their names and shapes, and refused.

A configuration is kept with its study, shown by `check` and `best`, and sent to every worker. So a token or a password
in it is everybody's. Only the store's URL may contain one; it is never stored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_PART = (
    r"passw(or)?d|passphrase|secret|credential|(api|access|private|account|sas)_?-?key"
    r"|(^|_)(hub|hf|auth|access|api|bearer|refresh|session|sas|id|secret)_?token$"
)
_NAME = re.compile(_PART + r"|^key$|^token$", re.IGNORECASE)
_PAIR = re.compile(r"""([\w.-]+)(['"]?\s*[:=]\s*)('[^']*'|"[^"]*"|[^\s,;})]+)""")
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bAIza[A-Za-z0-9_-]{30,}|\bxox[abp]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""Tokens that are known by their look: Hugging Face, GitHub, AWS, OpenAI, Google, Slack; and private keys."""
_URL_WITH_LOGIN = re.compile(r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://[^/\s?#@]*:[^\s@]*@", re.IGNORECASE)
"""A scheme is looked for from the beginning of a word alone: else a long word takes the square of its length."""
_QUERY = re.compile(r"[?&;]([^=&;\s]+)=([^&;\s]+)")
ADVICE = (
    "allowed: none in a configuration, which is kept with its study; give it in the environment (HF_TOKEN, "
    "AWS_PROFILE, ...) of each node"
)


_STORES = dict[str, str]()
"""The stores that this process has named: their URLs as they may be shown, and whole."""
STORE_VARIABLE = "RANKRAY_STORE"


def note_store(shown: str, url: str) -> None:
    """Remember a store's URL, so that the environment variables that hold it are known."""
    _STORES[shown] = url


def noted_stores() -> list[str]:
    """Return the URLs of the stores that this process has named, with their passwords."""
    return list(_STORES.values())


def store_variables() -> list[str]:
    """Return the environment variables that hold the URL of a store that this process has named."""
    return [name for name, value in os.environ.items() if value in _STORES.values()]


def variable_of_store(shown: str) -> str:
    """Return the environment variable that holds a store's URL; RANKRAY_STORE where none does.

    Args:
        shown: the URL without its password.
    """
    url = _STORES.get(shown)
    names = [name for name, value in os.environ.items() if value == url]
    return STORE_VARIABLE if STORE_VARIABLE in names or not names else names[0]


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name would hold a secret; the last part of a dotted path counts."""
    return bool(_NAME.search(unquote(name).rpartition(".")[2]))


def secret_paths(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted path of every value that is, or contains, a secret; `store` and templates are not looked at.

    Args:
        tree: a configuration as plain JSON types.
    """
    for key, value in tree.items():
        if key != "store":
            yield from _paths(str(key), value)


def _paths(path: str, value: Any, below_secret: bool = False) -> Iterator[str]:
    secret = below_secret or is_secret_name(path)
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _paths(f"{path}.{key}", each, secret)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _paths(path, each, secret)
    elif isinstance(value, str):
        if value and (secret or _holds_secret(value)):
            yield path
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and secret:
        yield path


def _holds_secret(text: str) -> bool:
    plain = unquote(unquote(text))
    if _SHAPES.search(plain) or _URL_WITH_LOGIN.search(plain):
        return True
    return "://" in plain and any(is_secret_name(name) for name, _ in _QUERY.findall(plain))


def without_secrets(text: str) -> str:
    """Return a text for people without what looks like a secret in it, or is written beside the name of one."""

    def hidden(found: re.Match[str]) -> str:
        named = re.search(_PART, found[1].rpartition(".")[2], re.IGNORECASE)
        return f"{found[1]}{found[2]}***" if named else found[0]

    return _PAIR.sub(hidden, _SHAPES.sub("***", text))
