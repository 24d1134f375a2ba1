"""The notebook of the docs runs from its first cell to its last."""

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
nbformat = pytest.importorskip("nbformat", reason="the notebook is run where nbclient and ipykernel are installed")
nbclient = pytest.importorskip("nbclient", reason="the notebook is run where nbclient and ipykernel are installed")
pytest.importorskip("ipykernel", reason="the notebook is run where nbclient and ipykernel are installed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_notebook(tmp_path, monkeypatch):
    """Its outputs are those of a search: three trials, and the settings of the best."""
    monkeypatch.setenv("RANKRAY_WORLD", str(tmp_path / "world"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "python.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "outputs are not kept in the repository"
    manager = nbclient.client.KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    nbclient.NotebookClient(
        notebook, timeout=900, km=manager, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    text = "\n".join(output["data"]["text/plain"] for output in shown)
    assert "{'ok': True," in text
    assert "'complete': 3" in text
    assert "loss.objective" in text
    assert "'stderr':" in text
    assert "'README.md'" in text
    assert "'decide': 16" in text
