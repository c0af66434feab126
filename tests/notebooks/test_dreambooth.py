"""The notebook runs from top to bottom, on sprite, with few steps."""

import os
import subprocess
import sys
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


# Put before the first cell: an environment without symdream, whose pip only tells what it was asked for.
BARE = """
import importlib.metadata
there = []
importlib.metadata.distributions = lambda **_: there
pip = lambda line: (print("pip", line), there.extend({found}))
get_ipython().register_magic_function(pip, "line", "pip")
"""


def install(folder, home, found=()):
    """What the first cell says in `folder`, where pip installs `found`; and whether it ended well."""
    pytest.importorskip("IPython")
    script = home / "cell.ipy"
    first = next(cell for cell in read().cells if cell.cell_type == "code")
    script.write_text(f"{BARE.format(found=list(found))}\n{first.source}\nprint('went on')\n")
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "--HistoryManager.enabled=False", str(script)]
    env = {**os.environ, "IPYTHONDIR": str(home / "ipython")}
    said = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    return said.stdout + said.stderr, "went on" in said.stdout


@pytest.mark.parametrize(("inside", "asked"), [("notebooks", ".."), (".", ".")])
def test_symdream_is_installed_from_the_repository_that_the_notebook_lies_in(tmp_path, inside, asked):
    said, went_on = install(NOTEBOOK.parents[1] / inside, tmp_path, found=["symdream"])
    assert f'pip install --quiet "{asked}"\n' in said and went_on


def test_elsewhere_the_notebook_tells_what_to_set_before_it_asks_pip(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    said, went_on = install(tmp_path, tmp_path)
    assert "set SYMDREAM to a wheel" in said and "git+https://" in said and "pip install" not in said and not went_on


def test_a_failed_installation_ends_the_cell(tmp_path):
    said, went_on = install(NOTEBOOK.parent, tmp_path)
    assert "could not be installed from .." in said and "set SYMDREAM" in said and not went_on


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
