"""The command line in this process, and a study to look at."""

import sys

import pytest
from store.helpers import drive, make_config

from rankray.cli.app import main
from rankray.store import open_study


@pytest.fixture
def rankray(monkeypatch, capsys):
    """Run a command as it is typed; return what it printed, the errors last."""

    def run(*words, expect=0):
        monkeypatch.setattr(sys, "argv", ["rankray", *words])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert (end.value.code or 0) == expect, printed.out + printed.err
        return printed.out + printed.err

    return run


@pytest.fixture
def url(tmp_path):
    """A store with a study `s` of three finished trials."""
    url = f"sqlite:///{tmp_path}/store.db"
    drive(open_study(url, make_config(study={"trials": 3})))
    return url
