"""Every command in the README runs, word for word, only shorter and with small stand-ins for what must be fetched."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import make_photos

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"

# What makes a command short enough for a test, by the command's first words.
SHORTER = {
    "symdream demo": ["--steps", "2"],
    "symdream train": ["--steps", "2"],
    "accelerate launch": ["--steps", "2"],
    "symdream generate": ["--steps", "2", "--count", "1"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands():
    """The lines of all bash blocks, continued ones joined, comments left out; then the commands in running text."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [line.split("  #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    prose = re.sub(r"```.*?```", "", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    inline = [code for code in re.findall(r"`([^`]+)`", prose) if re.match(r"(symdream|make|accelerate) \S", code)]
    return list(dict.fromkeys(found + inline))


def shortened(command):
    words = shlex.split(command)
    if "--resume" in words:
        return words
    return words + SHORTER.get(" ".join(words[:2]), [])


@pytest.mark.slow
def test_every_readme_command_runs(tmp_path, tiny_sd1):
    for name in ("sample_data", "symdream", "pyproject.toml", "Makefile"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    make_photos(tmp_path / "photos", size=(160, 128))
    scripts = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    # make demo sets up a virtual environment; this one is ready.
    venv = Path(sys.executable).parent.parent
    (tmp_path / ".venv").symlink_to(venv)
    ran = 0
    for command in commands():
        words = shortened(command)
        if words[:2] in (["git", "clone"], ["cd", "symdream"], ["pip", "install"], ["symdream", "demo"]):
            continue  # run by test_wheel.py and by whoever reads this in a checkout
        if words[:2] == ["make", "test"]:
            continue  # this very run
        if words[0] == "source":
            words = ["bash", "-c", f"{command} && command -v python"]
        if words[0] == "make":
            words.append("ARGS=--steps 2")
            (venv / ".ready").exists() or (venv / ".ready").touch()
        if words[:2] == ["symdream", "app"]:
            continue  # run by the app's own tests
        words = [str(tiny_sd1) if word == "sd15" else word for word in words]
        result = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        ran += 1
    assert ran >= 10


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_readme_snippet_runs(tmp_path, number):
    code = blocks("python")[number]
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode == 0, result.stderr


def test_pictures_and_pages_that_the_readme_names_exist():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (REPOSITORY / target).exists(), target


def test_the_tree_stays_under_60_mb():
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    files = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout.split(b"\0")
    size = sum((REPOSITORY / f.decode()).lstat().st_size for f in files if f and (REPOSITORY / f.decode()).exists())
    assert size < 60e6
