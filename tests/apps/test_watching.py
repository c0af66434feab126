import json

import pytest
from PIL import Image

from symdream.training.run_folder import RunFolder
from symdream_apps import watching
from symdream_apps.run_status import Status
from symdream_apps.runs import Runs


@pytest.fixture
def run(tmp_path):
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "config.toml").write_text("")
    return RunFolder(tmp_path / "owl")


def write_metrics(run, losses):
    lines = [json.dumps({"step": i, "loss": loss, "seconds": 1.0}) for i, loss in enumerate(losses, 1)]
    run.metrics.write_text("\n".join(lines) + '\n{"step": 99, "lo')


def test_the_curve_has_each_loss_and_the_trainers_smoothing(run):
    write_metrics(run, [1.0, 0.0, 2.0])
    table = watching.curve(run)
    assert list(table[table.line == watching.EACH].loss) == [1.0, 0.0, 2.0]
    smoothed = [1.0, 0.95, 0.95 * 0.95 + 0.05 * 2.0]
    assert list(table[table.line == watching.SMOOTHED].loss) == pytest.approx(smoothed)


@pytest.mark.parametrize("count", [1, 299, 300, 301, 5000])
def test_a_long_curve_is_thinned_and_ends_with_the_last_step(run, count):
    write_metrics(run, [0.1] * count)
    steps = list(watching.curve(run).step.unique())
    assert steps[0] == 1 and steps[-1] == count and len(steps) <= watching.POINTS + 1


def test_a_run_without_steps_has_an_empty_curve(run):
    assert watching.curve(run).empty


def test_names_and_errors_are_text_and_never_html(run, tmp_path):
    runs = Runs(tmp_path)
    told = watching.sentence(runs, Status("owl", "failed", 1, 2, error="<script>alert(1)</script>\n  fix:   none"))
    assert "<script>" not in told and "&lt;script&gt;" in told and "<br>" in told


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "about 1 s"), (80, "about 80 s"), (600, "about 10 min"), (7200, "about 2.0 h")]
)
def test_time_left_is_told_in_words(seconds, words):
    assert watching.time_left(seconds) == words


def test_a_picture_that_is_half_written_is_left_out(run):
    run.samples.mkdir()
    Image.new("RGB", (8, 8)).save(run.samples / "step-00010.png")
    (run.samples / "step-00020.png").write_bytes(b"\x89PNG")
    shown = watching.pictures(watching.sample_files(run))
    assert [caption for _, caption in shown] == ["after step 10"]


def test_the_newest_pictures_are_shown_first_and_the_oldest_of_many_not_at_all(run):
    run.samples.mkdir()
    for step in range(10, 10 * (watching.PICTURES + 3), 10):
        (run.samples / f"step-{step:05d}.png").touch()
    shown = [int(file.stem[5:]) for file in watching.sample_files(run)]
    assert shown == list(range(140, 20, -10)) and len(shown) == watching.PICTURES


def test_a_run_at_work_tells_its_step_its_bar_and_the_time_left(run, tmp_path):
    write_metrics(run, [0.1] * 3)
    told = watching.sentence(Runs(tmp_path), Status("owl", "running", 3, 8, seconds_left=80))
    assert "trains: step 3 of 8, about 80 s left." in told and '<progress value="3" max="8"' in told


def test_a_run_that_found_no_more_to_learn_tells_the_steps_and_the_time_that_it_took(run, tmp_path):
    run.summary.write_text('{"seconds_total": 600}')
    status = Status("owl", "finished", 4, 8)
    assert watching.label(status) == "owl: finished, 4 steps"
    assert "is finished: 4 steps in 10 min." in watching.sentence(Runs(tmp_path), status)
