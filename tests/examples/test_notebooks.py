"""Notebooks of `examples/notebooks/` run from their first cell to their last."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="notebooks need nbclient and ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # Stored without outputs, so that a change shows what was changed.
    assert not any(cell.outputs for cell in cells)
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = {output.output_type for cell in cells for output in cell.outputs}
    assert outputs <= {"execute_result", "display_data", "stream", "error"}
    for cell in cells:
        raised = [o for o in cell.outputs if o.output_type == "error"]
        wanted = "raises-exception" in cell.metadata.get("tags", ())
        assert bool(raised) == wanted, cell.source
        for output in raised:
            text = "\n".join(output.traceback)
            assert "-->" in text and "Traceback" not in text
        # A training has one output, which was updated; nothing is printed beside it.
        if ".fit(" in cell.source:
            shown = [o for o in cell.outputs if o.output_type != "execute_result"]
            assert [o.output_type for o in shown] == ["display_data"]
            assert "<table>" in shown[0].data["text/html"]
