import math

import pytest

from rankray.environment import seconds_of
from rankray.errors import ConfigError

NAME = "RANKRAY_TEST_SECONDS"


def test_a_variable_that_is_not_set_has_its_default(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    assert seconds_of(NAME, 5.0) == 5.0


@pytest.mark.parametrize(("given", "seconds"), [("3", 3.0), (" 0.5 ", 0.5), ("1e3", 1000.0)])
def test_a_number_is_taken(monkeypatch, given, seconds):
    monkeypatch.setenv(NAME, given)
    assert seconds_of(NAME, 5.0) == seconds


@pytest.mark.parametrize("given", ["-1", "soon", "nan", "", "-inf", "0", "inf"])
def test_what_is_no_duration_is_refused(monkeypatch, given):
    monkeypatch.setenv(NAME, given)
    with pytest.raises(ConfigError, match=rf"^{NAME}: got '{given}'; allowed: a number of seconds above 0; fix or"):
        seconds_of(NAME, 5.0)


def test_zero_and_infinity_are_for_those_that_may_be_so(monkeypatch):
    monkeypatch.setenv(NAME, "0")
    assert seconds_of(NAME, 5.0, zero=True) == 0
    monkeypatch.setenv(NAME, "inf")
    assert seconds_of(NAME, 5.0, endless=True) == math.inf
    monkeypatch.setenv(NAME, "-1")
    with pytest.raises(ConfigError, match="a number of seconds 0 or more"):
        seconds_of(NAME, 5.0, zero=True)
