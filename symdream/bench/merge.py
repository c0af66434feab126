"""Joins shards of one grid: their results, scores, tuning and run folders, into one folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symdream.bench.cells import read_done
from symdream.bench.environments import distinct, environments_of
from symdream.bench.grid import GRID_FILE, Grid, to_toml
from symdream.bench.lock import locked
from symdream.bench.results import (
    read_comparison,
    read_comparisons,
    read_results,
    read_rows,
    write_results,
    write_rows,
)
from symdream.bench.same_grid import other_pictures, other_work
from symdream.bench.wording import count, listing
from symdream.errors import Problems, RequestError, WorkError, collected
from symdream.files import write_text
from symdream.training.run_folder import is_run
from symdream.ui import say
from symdream.whole_folder import write_folder
from symdream.writable import not_writable

STANDING = {"finished": 2, "failed": 1, "missing": 0}


def merge_folders(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write into `output` what `folders` hold together; a folder may lack everything but its two result files.

    Of a cell that several hold, a finished one wins over a failed one, the first folder's over the later.
    Raises: RequestError if a folder has no results, they are of another format, or of different grids or settings, or
    if finished cells of `output` would be lost, or another process compares there. Problems, all at once, for folders
    that cannot be read or written.
    """
    problems = [wrong] if (wrong := not_writable(output)) else []
    with collected(problems, "merge"):
        contents = read_comparisons(folders)
    if problems:
        raise Problems("the request", problems)
    _refuse_different(list(zip(folders, contents, strict=True)))
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        # Read anew: `output` may be one of them, and have changed before it was ours.
        return _merge(list(zip(folders, read_comparisons(folders), strict=True)), output)


def _merge(parts: Sequence[tuple[Path, dict[str, Any]]], output: Path) -> dict[str, Any]:
    whole = dict(parts[0][1])
    best: dict[str, tuple[dict[str, Any], Path]] = {}
    for folder, content in parts:
        for cell in content["cells"]:
            known = best.get(cell["id"])
            if known is None or STANDING[cell["status"]] > STANDING[known[0]["status"]]:
                best[cell["id"]] = (cell, folder)
    for name in ("references", "settings"):
        whole[name] = {key: value for _, content in reversed(parts) for key, value in content[name].items()}
    whole["tuning"] = next((content["tuning"] for _, content in parts if content["tuning"]), [])
    whole["grid"] = _joined_grid([content["grid"] for _, content in parts])
    whole["environments"] = distinct([one for _, content in parts for one in environments_of(content)])
    whole["notes"] = list(dict.fromkeys(note for _, content in parts for note in content["notes"]))
    whole["cells"] = [cell for cell, _ in best.values()]
    whole["complete"] = all(cell["status"] == "finished" for cell in whole["cells"])
    rows = _rows(parts, best)
    finished = {cell["id"]: cell for cell, _ in best.values() if cell["status"] == "finished"}
    _refuse_loss(output, finished, joined=output.resolve() in [folder.resolve() for folder, _ in parts])
    whole |= {"analysis": {}, "paired": []}  # of all cells together, they are done anew: analyse_folder
    for name in finished:
        _copy_cell(best[name][1] / "cells" / name, output / "cells" / name)
    for folder, _ in parts:
        for place in (folder / "references").glob("[!.]*"):  # and nothing that is being written, or was given up
            _copy(place, output / "references" / place.name)
    write_text(output / GRID_FILE, to_toml(Grid.model_validate(whole["grid"]["config"])))
    write_rows(output, rows)
    write_results(output, whole)
    done = sum(cell["status"] == "finished" for cell in whole["cells"])
    say(f"{done} of {len(whole['cells'])} cells are finished in {output}.")
    return whole


def analyse_folder(folder: Path) -> dict[str, Any]:
    """Do the statistics of a comparison anew, from its results.json and scores.csv; returns results.json.

    It is written back, unless a grid is being run in this folder: then the file is that run's alone.
    """
    from symdream.bench.analysis import analyse

    content = read_comparison(folder)
    content |= analyse(content, read_rows(folder))
    try:
        with locked(folder):
            write_results(folder, content)
    except RequestError:
        say(f"{folder} is being worked on: this report is of what is finished so far.")
    return content


def _refuse_different(parts: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    first, content = parts[0]
    for folder, other in parts[1:]:
        grids = content["grid"], other["grid"]
        if found := other_work(*grids) + other_pictures(*grids):
            raise RequestError(
                f"{folder} and {first} are of different grids: the former has {'; '.join(found)}.",
                fix="merge only shards of one grid",
            )
        for arm in content["settings"].keys() & other["settings"].keys():
            if content["settings"][arm] != other["settings"][arm]:
                raise RequestError(
                    f"{folder} trained {arm} with other settings than {first}: {other['settings'][arm]} and "
                    f"{content['settings'][arm]}.",
                    fix="tune once, and give every shard the same --settings",
                )


def _refuse_loss(output: Path, finished: Mapping[str, Mapping[str, Any]], *, joined: bool) -> None:
    """Refuse to write over what is finished in `output`, unless it is `joined` itself, or over what is no cell."""
    known = read_results(output) or {"cells": []}
    here = {cell["id"]: cell["key"] for cell in known["cells"] if cell["status"] == "finished"}
    for place in (output / "cells" / name for name in finished):
        if done := read_done(place):
            here.setdefault(place.name, done["cell"]["key"])
        elif place.exists() and not is_run(place):
            raise RequestError(f"{place} is no cell's folder.", fix="move it away, or choose another --output")
    lost = [name for name, key in here.items() if name not in finished or finished[name]["key"] != key]
    if lost and not joined:
        raise RequestError(
            f"{output} holds {count(len(lost), 'finished cell')} that the merged folders lack: {listing(lost[:10])}"
            f"{' and others' if len(lost) > 10 else ''}.",
            fix="name it among the folders too, or choose another --output",
        )


def _joined_grid(grids: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first grid, with the arms, subjects and seeds of all, in its config too: so that it can be gone on with."""
    joined = dict(grids[0])
    joined["arms"] = list({arm["id"]: arm for grid in grids for arm in grid["arms"]}.values())
    for name in ("subjects", "training_seeds"):
        joined[name] = list(dict.fromkeys(value for grid in grids for value in grid[name]))
    for name in ("prompts", "photos", "beside"):
        joined[name] = {key: value for grid in reversed(grids) for key, value in grid.get(name, {}).items()}
    joined["config"] = _joined_config([grid["config"] for grid in grids], joined)
    joined["match"] = joined["config"].get("match", joined["match"])
    return joined


def _joined_config(configs: Sequence[dict[str, Any]], joined: dict[str, Any]) -> dict[str, Any]:
    config = dict(configs[0])
    arms = {name: [one[name] for one in configs if name in one] for name in ("methods", "ranks", "match")}
    several = [name for name, values in arms.items() if any(value != values[0] for value in values)]
    for name in several:
        lists = name != "match"
        config[name] = list(dict.fromkeys(v for values in arms[name] for v in values)) if lists else "both"
    if len(several) > 1:
        say(
            f"note: the folders differ in {' and '.join(several)}, and {GRID_FILE} asks for every combination of them: "
            "gone on with, it runs arms that none of them has."
        )
    if any(one.get("subjects") for one in configs):
        config["subjects"] = joined["subjects"]
    left_out = dict.fromkeys(name for one in configs for name in one.get("left_out", []))
    config["left_out"] = [name for name in left_out if name not in joined["subjects"]]
    return config | {"training_seeds": joined["training_seeds"]}


def _rows(
    parts: Sequence[tuple[Path, dict[str, Any]]], best: dict[str, tuple[dict[str, Any], Path]]
) -> list[dict[str, Any]]:
    """The references' rows, once each, and those of each cell from the folder it is taken from."""
    seen, references, cells = set(), [], []
    for folder, _ in parts:
        for row in read_rows(folder):
            if row["cell"]:
                cell, chosen = best.get(row["cell"], (None, None))
                if chosen == folder and cell["status"] == "finished":
                    cells.append(row)
            elif (key := (row["arm"], row["subject"], row["prompt"], row["image_seed"])) not in seen:
                seen.add(key)
                references.append(row)
    return references + cells


def _copy_cell(source: Path, target: Path) -> None:
    """A finished cell; a run that failed at its place makes room."""
    if read_done(source) and target.exists() and not read_done(target):
        shutil.rmtree(target)
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """A folder, whole or not at all; one that is there stays. Raises: WorkError."""
    if not source.is_dir() or target.exists():
        return

    def copy(new: Path) -> None:
        mode = new.stat().st_mode
        try:
            shutil.copytree(source, new, dirs_exist_ok=True)
        except shutil.Error as error:  # of every file that failed: (from, to, why)
            (file, _, why), *_ = error.args[0]
            raise WorkError(
                f"Could not copy {file}: {why}.", fix="see that it can be read and that there is room; then merge again"
            ) from error
        finally:
            new.chmod(mode)  # copytree gives it that of `source`, which may be read-only

    write_folder(target, copy)
