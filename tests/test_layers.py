"""What lies below knows nothing of what stands on it: tuners, then diffusion, then data, then all else."""

import ast
from pathlib import Path

import pytest

import symdream

PACKAGE = Path(symdream.__file__).parent
ABOVE = {"training", "metrics", "interop", "bench", "commands"}
FORBIDDEN = {
    "tuners": {"diffusion", "data", *ABOVE},
    "diffusion": {"data", *ABOVE},
    "data": ABOVE,
    "interop": {"metrics", "bench", "commands"},
    "training": {"interop", "bench", "commands"},
    "metrics": {"bench", "commands"},
    "bench": {"commands"},
}


def imported(tree):
    """The symdream modules that a file imports when it runs, those in its functions too."""
    for_types = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    never = {id(node) for block in for_types for node in ast.walk(block)}
    for node in ast.walk(tree):
        if (
            id(node) not in never
            and isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("symdream")
        ):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_one_that_stands_on_it(package):
    files = sorted((PACKAGE / package).glob("*.py"))
    assert files
    found = {(file.name, module) for file in files for module in imported(ast.parse(file.read_text(encoding="utf-8")))}
    assert not {(file, module) for file, module in found if f"{module}.".split(".")[1] in FORBIDDEN[package]}


def test_nothing_imports_the_apps():
    allowed = {PACKAGE / "commands" / "app.py"}
    for file in sorted(PACKAGE.rglob("*.py")):
        if file not in allowed:
            assert "symdream_apps" not in file.read_text(encoding="utf-8"), file
