"""The notebook runs from top to bottom, on sprite, with few steps."""

from copy import deepcopy
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "dreambooth.ipynb"
OTHER_SUBJECT = "\nCLASS_NOUN = 'dog'"
QUICK = {"BASE": "sprite", "STEPS": 2, "PICTURES": 1, "DENOISING_STEPS": 2}


def read():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs():
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_trains_generates_and_exports(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = read()
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name in QUICK:
        assert f"\n{name} = " in settings.source
    settings.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in QUICK.items())
    (train,) = [cell for cell in notebook.cells if '"--resume"' in cell.source]
    again, another = deepcopy(train), deepcopy(train)
    another.source = settings.source + OTHER_SUBJECT + "\n" + another.source
    another.metadata["tags"] = ["raises-exception"]
    notebook.cells += [again, another]
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    run = tmp_path / "runs" / "mine"
    assert (run / "my-subject.safetensors").is_file() and (run / "pictures" / "1" / "grid.png").is_file()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3  # the photos, and a grid of each prompt
    said = "".join(o.get("text", "") for o in outputs)
    assert "2 steps" in said and "lora:my-subject" in said

    assert [output.output_type for output in again.outputs] == ["stream"]
    [refusal] = [output for output in another.outputs if output.output_type == "error"]
    assert refusal.ename == "SystemExit" and "class_noun bird, not dog" in refusal.evalue
    assert "steps" not in refusal.evalue and "another RUN" in refusal.evalue
