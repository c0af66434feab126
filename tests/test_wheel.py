"""A wheel in a fresh virtual environment: the demo works from it, weights and sample photos included."""

import os
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest
from gradio_client import Client
from helpers.app_server import free_port

REPOSITORY = Path(__file__).parent.parent


def build(kind: str, source: Path, place: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(place), str(source)],
        check=True,
        capture_output=True,
        timeout=600,
    )
    [made] = place.glob("symdream-*.whl" if kind == "wheel" else "symdream-*.tar.gz")
    return made


@pytest.mark.slow
def test_a_wheel_made_from_the_source_distribution_is_that_of_the_repository(tmp_path):
    expected = zipfile.ZipFile(build("wheel", REPOSITORY, tmp_path / "direct")).namelist()
    with tarfile.open(build("sdist", REPOSITORY, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    assert sorted(zipfile.ZipFile(build("wheel", source, tmp_path / "by way")).namelist()) == sorted(expected)
    assert not (source / "tests").exists()  # some of them would be broken ones


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel_in_a_fresh_environment(tmp_path):
    wheel = build("wheel", REPOSITORY, tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("sample_data/owl/00.png") for name in names)
    assert any("assets/sprite" in name and name.endswith(".safetensors") for name in names)
    assert {"symdream/bench/templates/report.html", "symdream/bench/templates/report.css"} <= set(names)
    assert "symdream_apps/gradio_app.py" in names

    # The new environment borrows the installed dependencies, which take minutes to install, but has no symdream.
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, timeout=600)
    site = subprocess.run(
        [sys.executable, "-c", "import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    packages = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (Path(packages) / "dependencies.pth").write_text(site + "\n")
    # No editable install may shadow the wheel: the interpreter runs isolated, from another folder.
    where = subprocess.run(
        [python, "-I", "-c", "import symdream; print(symdream.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(tmp_path) in where.stdout, where.stderr

    command = [tmp_path / "env" / "bin" / "symdream", "demo", "--steps", "2", "-o", "demo run é"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "demo run é"
    assert (run / "grid.png").is_file() and list(run.glob("*-lora.safetensors"))
    assert "DINO" in result.stdout and "LoRA of the same rank" in result.stdout

    # The app is in the wheel too: it starts, and lists what the demo made.
    log = tmp_path / "app.log"
    with log.open("wb") as output:
        command = [tmp_path / "env" / "bin" / "symdream", "app", "--port", str(free_port()), "--runs", str(tmp_path)]
        app = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
    try:
        for _ in range(1800):
            if "symdream app: http" in log.read_text() or app.poll() is not None:
                break
            time.sleep(0.1)
        url = log.read_text().split("symdream app: ")[1].split()[0].rstrip("/")
        listed = Client(url, verbose=False).predict(api_name="/train_status")
        assert [(one["run"], one["status"]) for one in listed["runs"]] == [("demo run é", "finished")]
    finally:
        app.send_signal(signal.SIGINT)
        assert app.wait(60) == 0, log.read_text()
