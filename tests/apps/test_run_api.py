"""The endpoints about runs through gradio_client, against a real server and a real trainer, each its own process."""

import json
import shutil
import time
from pathlib import Path

import pytest
import requests
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers.runs import bare_run, make_photos
from PIL import Image
from safetensors import safe_open

from symdream.data.samples import sample_data
from symdream.interop.inspect import inspect_adapter
from symdream.presets import PRESETS
from symdream.training.request import settings_of
from symdream.training.run_folder import RunFolder
from symdream_apps.errors import UNEXPECTED
from symdream_apps.photo_check import MOST
from symdream_apps.train_request import plain_name

TINY = {"steps": 200, "batch_size": 1, "rank": 4, "checkpoint_every": 0, "sample_every": 0, "tensorboard": False}


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("fetched")))


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    folder = make_photos(tmp_path_factory.mktemp("to upload"))
    return [handle_file(str(path)) for path in sorted(folder.iterdir())]


def refused(client, api_name, **arguments) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(**arguments, api_name=api_name)
    message = str(caught.value)
    assert "Traceback" not in message and ".py" not in message
    return message


def test_all_that_is_wrong_with_a_request_is_told_at_once(client, server):
    message = refused(
        client, "/train_start", class_noun=" ", trigger="", method="magic", preset="best", settings={"colour": 1}
    )
    for key in ("photos", "class_noun", "trigger", "method", "preset", "colour"):
        assert key in message
    message = refused(client, "/train_start", class_noun="bird", sample="owl", settings={"rank": 0, "steps": -5})
    assert "adapter.rank" in message and "training.steps" in message
    assert sorted(p.name for p in server.runs.iterdir() if not p.name.startswith(".")) == ["owl", "owl two"]


@pytest.mark.parametrize(
    "settings", [{"output": "/elsewhere"}, {"images": "/etc"}, {"cache_dir": "/var"}, {"start_from": "/etc/passwd"}]
)
def test_a_browser_says_nothing_about_where_files_are(client, settings):
    assert "no setting that can be given here" in refused(
        client, "/train_start", class_noun="bird", sample="owl", settings=settings
    )


@pytest.mark.parametrize("settings", [{"base": "/etc/passwd"}, {"class_noun": "x"}, {"trigger": "x"}, {"method": "x"}])
def test_no_setting_replaces_an_argument_that_is_checked(client, server, settings):
    message = refused(client, "/train_start", class_noun="bird", sample="owl", settings=settings)
    assert "has an argument of its own" in message
    assert not (server.runs / "owl-singlora").exists()


@pytest.mark.parametrize(("key", "value"), [("steps", 10**30), ("rank", 2**63), ("seed", -(10**20)), ("lr", 1e300)])
def test_a_number_that_no_answer_could_hold_starts_nothing(client, server, key, value):
    message = refused(client, "/train_start", class_noun="bird", sample="owl", settings={key: value})
    assert f"{key}  is too large a number" in message
    assert client.predict(api_name="/train_status")["runs"] and not (server.runs / "owl-singlora").exists()


@pytest.mark.parametrize("name", ["a" * 300, "𠀀" * 100, "a\0b"])
def test_a_name_that_no_file_can_have_is_told(client, name):
    for endpoint, arguments in (("/inspect", {"adapter": name}), ("/generate", {"prompt": "a", "base": name})):
        assert "name" in (message := refused(client, endpoint, **arguments)) and UNEXPECTED not in message
    assert "No base" in refused(client, "/train_start", class_noun="bird", sample="owl", base=name)
    assert "no run" in refused(client, "/train_status", run=name)


@pytest.mark.parametrize("words", ["a" * 300, "𠀀" * 100, "my dog & I"])
def test_a_name_of_a_run_is_cut_to_what_a_folder_can_have(tmp_path, words):
    name = plain_name(words)
    assert name and words.replace(" & ", "-").replace(" ", "-").startswith(name)
    (tmp_path / f"{name}-kohya.safetensors").touch()


@pytest.mark.parametrize("base", ["/etc", "../..", "/tmp", "../owl", "~", "no such base"])
def test_a_base_outside_of_the_folders_is_refused(client, base):
    refused(client, "/train_start", class_noun="bird", sample="owl", base=base)


def test_photos_that_were_not_uploaded_are_refused(client, server):
    photo = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    within = [server.runs / "owl" / "config.toml", sample_data().resolve() / "owl" / "00.png"]
    for value in (photo, {"path": "/etc/hostname"}, *({"path": str(file)} for file in within)):
        endpoint = f"{server.url}/gradio_api/call/train_start"
        answer = requests.post(endpoint, json={"data": ["bird", [value]]}, timeout=60).json()
        events = requests.get(f"{endpoint}/{answer['event_id']}", timeout=60).text
        assert "event: error" in events and "Traceback" not in events
    assert not (server.runs / "bird-singlora").exists()


def test_a_renamed_text_file_is_refused_by_its_content(client, tmp_path):
    letter = tmp_path / "letter.png"
    letter.write_text("Dear friend")
    message = refused(client, "/train_start", class_noun="bird", photos=[handle_file(str(letter))])
    assert "letter.png is not an image" in message


def test_more_photos_than_are_trained_on_are_refused(client, server, uploads):
    message = refused(client, "/train_start", class_noun="toy", photos=uploads[:1] * (MOST + 1), captions=["a"])
    assert f"photos    are 31: give at most {MOST}" in message and "captions  are 1 for 31 photos" in message
    assert not (server.runs / "toy-singlora").exists()


def test_what_is_asked_for_is_queued_behind_a_run_at_work_taken_out_and_put_back(client, server, uploads):
    busy = bare_run(server.runs / "busy")
    busy.write_state("running", step=0, steps=9)
    busy.acquire()
    asked = {"class_noun": "toy", "trigger": "zwx", "method": "symlora", "preset": "quick", "settings": {"rank": 5}}
    try:
        queued = client.predict(
            **asked, name="mine", photos=uploads, captions=["", "a {subject} on red", ""], api_name="/train_start"
        )
        assert (queued["run"], queued["status"], queued["place"]) == ("mine", "queued", 1)
        config = settings_of(RunFolder(server.runs / "mine"))
        [subject] = config.learned
        assert (subject.class_noun, subject.trigger, config.model.base) == ("toy", "zwx", "sprite")
        assert (config.adapter.method, config.adapter.rank) == ("symlora", 5)
        assert [file.name for file in subject.images.glob("*.txt")] == ["01-01.txt"]
        assert queued["steps"] == config.training.steps == PRESETS["quick"].settings["training"]["steps"]
        stopped = client.predict("mine", api_name="/train_stop")
        assert (stopped["status"], stopped["place"]) == ("stopped", 0)
        assert client.predict("mine", api_name="/train_resume")["status"] == "queued"
        client.predict("mine", api_name="/train_stop")
    finally:
        shutil.rmtree(server.runs / "mine", ignore_errors=True)
        busy.release()
        shutil.rmtree(busy.path)


def test_the_status_tells_the_last_loss_and_the_newest_picture_first(client, server):
    run = bare_run(server.runs / "watched")
    try:
        run.metrics.write_text("".join(f'{{"step": {n}, "loss": {1 / n}}}\n' for n in (1, 2, 4)))
        run.samples.mkdir()
        for step, color in ((2, "red"), (4, "blue")):
            Image.new("RGB", (8, 8), color).save(run.samples / f"step-{step:05d}.png")
        told = client.predict("watched", api_name="/train_status")
        assert (told["run"], told["loss"]) == ("watched", 0.25)
        assert [Image.open(file).getpixel((0, 0)) for file in told["samples"]] == [(0, 0, 255), (255, 0, 0)]
    finally:
        shutil.rmtree(run.path)


def test_an_export_has_the_weight_and_the_numbers_that_are_asked_for(client, server):
    file = client.predict("owl", to="diffusers", dtype="bf16", weight=0.5, api_name="/export")["files"][0]
    told, before = inspect_adapter(Path(file)), inspect_adapter(server.runs / "owl")
    halves = [layer["norm"] / 2 for layer in before["layers"]]
    assert [layer["norm"] for layer in told["layers"]] == pytest.approx(halves, rel=1e-2)
    assert told["dtypes"] == ["BF16"]


@pytest.mark.parametrize("name", ["../owl", "/etc", "no such run", ".app", ""])
def test_a_run_that_is_not_there_is_no_run(client, name):
    assert "no run" in refused(client, "/train_status", run=name)
    assert "no run" in refused(client, "/train_stop", run=name)


def test_inspect_tells_what_the_command_tells(client, server):
    told = client.predict("owl", api_name="/inspect")
    known = json.loads(json.dumps(inspect_adapter(server.runs / "owl")))
    del known["path"]
    assert told == {**known, "name": "owl"} and told["trigger"] == "sks bird"
    assert str(server.runs) not in json.dumps(told)


def test_export_gives_a_file_that_other_tools_read_and_keeps_it_with_the_run(client, server):
    files = [Path(file) for file in client.predict("owl", to="kohya", dtype="fp16", api_name="/export")["files"]]
    assert [file.name for file in files] == ["owl-kohya.safetensors", "owl-kohya.txt"]
    with safe_open(files[0], "pt") as opened:
        assert any(key.startswith("lora_unet_") for key in opened.keys())  # noqa: SIM118
    assert (server.runs / "owl" / "exports" / "owl-kohya.safetensors").read_bytes() == files[0].read_bytes()
    assert "export format" in refused(client, "/export", adapter="owl", to="pickle")
    assert "lies outside" in refused(client, "/export", adapter="/etc/passwd")


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)
    return value


@pytest.mark.slow
def test_two_runs_train_stop_and_go_on(client, server, uploads, tiny_sd1):
    shutil.copytree(tiny_sd1, server.runs / "tiny-base")
    asked = {"class_noun": "toy", "photos": uploads, "base": "tiny-base", "method": "symlora"}
    first = client.predict(
        **asked,
        name="first",
        captions=["a {subject} on red", "", ""],
        settings={**TINY, "steps": 3000},
        api_name="/train_start",
    )
    second = client.predict(
        **asked, name="second", settings={**TINY, "steps": 3, "sample_every": 3}, api_name="/train_start"
    )
    assert (first["run"], first["status"]) == ("first", "starting")
    assert (second["status"], second["place"]) == ("queued", 1)
    assert (server.runs / "first" / "photos" / "00-00.txt").read_text() == "a {subject} on red\n"

    def status(name):
        return client.predict(run=name, api_name="/train_status")

    until(lambda: (s := status("first"))["status"] == "running" and s["loss"] and s["step"] > 2)
    assert client.predict("first", api_name="/train_stop")["status"] in ("stopping", "stopped")
    # The app starts the next one by itself.
    done = until(lambda: (s := status("second"))["status"] == "finished" and s)
    assert done["step"] == 3 and len(done["samples"]) == 1 and done["samples"][0].endswith(".png")
    stopped = status("first")
    assert stopped["status"] == "stopped" and 2 < stopped["step"] < 3000
    listed = client.predict(api_name="/train_status")["runs"]
    assert {run["run"] for run in listed} >= {"first", "second", "owl"}

    config = server.runs / "first" / "config.toml"
    config.write_text(config.read_text().replace("steps = 3000", f"steps = {stopped['step'] + 2}"))
    client.predict("first", api_name="/train_resume")
    assert until(lambda: (s := status("first"))["status"] == "finished" and s)["step"] == stopped["step"] + 2
    assert "nothing to resume" in refused(client, "/train_resume", run="first")
    assert client.predict("second", api_name="/inspect")["trained_as"] == "symlora"
