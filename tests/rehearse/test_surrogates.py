"""Every family predicts a smooth truth from noisy runs better than its mean does, and is repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankray.config import Config
from rankray.rehearse import surrogates
from rankray.rehearse.surrogates import FAMILIES, gaussian_process, kernel_smoother
from rankray.rehearse.table import read_table
from rankray.store.encoding import Encoding
from rehearse.conftest import STEPS, true_loss


@pytest.mark.parametrize("name", [*FAMILIES, "kernel smoother"])
def test_a_family_predicts_settings_that_were_not_recorded(name: str, file: Path, config: Config) -> None:
    fit = {**FAMILIES, "kernel smoother": kernel_smoother}[name]
    table, encoding = read_table(file, config), Encoding(config)
    recorded = np.stack([encoding.place(params) for params in table.settings])
    curves = table.means.reshape(len(recorded), -1)
    fresh = encoding.draw(200, np.random.default_rng(5))
    found = fit(encoding, recorded, curves)(fresh).reshape(200, 3, 2)
    truth = np.array([[true_loss(encoding.params(row)) + 10 / step for step in STEPS] for row in fresh])
    error = np.abs(found[:, :, 0] - truth).mean()
    spread = np.abs(truth - truth.mean(axis=0)).mean()
    assert error < 0.5 * spread
    np.testing.assert_allclose(found[:, :, 1], 2 - found[:, :, 0] / 2, rtol=1e-6, err_msg="metrics hold together")
    again = fit(encoding, recorded, curves)(fresh[:10]).reshape(10, 3, 2)
    np.testing.assert_allclose(again, found[:10], rtol=1e-9)


def test_a_gaussian_process_is_fitted_to_a_part_of_many_settings(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogates, "MOST_FITTED", 5)
    encoding = Encoding(config)
    rows = encoding.draw(21, np.random.default_rng(6))
    curves = np.random.default_rng(7).random((21, 1))
    found, of_part = (gaussian_process(encoding, rows[s], curves[s])(rows) for s in (slice(None), slice(0, 21, 5)))
    np.testing.assert_array_equal(found, of_part)
