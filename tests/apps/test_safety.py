"""What a browser may name and send, and what it is told when that was wrong."""

import errno
import html
import os
import struct
import zlib

import numpy as np
import pytest
from helpers.disk import file_size_limit
from PIL import Image
from safetensors.numpy import save_file

from symdream.errors import Problem, Problems, RequestError, WorkError

pytest.importorskip("gradio")
MarkdownIt = pytest.importorskip("markdown_it").MarkdownIt

from symdream_apps import upload  # noqa: E402
from symdream_apps.adapter_rows import bring_back  # noqa: E402
from symdream_apps.adapters import choices  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.draft import Named, sent_before  # noqa: E402
from symdream_apps.errors import UNEXPECTED, inline, plain, told  # noqa: E402
from symdream_apps.text import no_markdown  # noqa: E402


@pytest.fixture
def context(tmp_path):
    return Context.at(tmp_path / "runs é")


def test_paths_inside_the_folders_are_resolved_against_the_runs_folder(context):
    (context.runs / "owl").mkdir()
    assert context.check_path("owl") == context.check_path(context.runs / "owl") == context.runs / "owl"
    assert context.name_of(context.runs / "owl") == "owl"
    (context.uploads / "photo.png").touch()
    assert context.check_path(context.uploads / "photo.png")
    assert context.check_path(context.samples / "owl" / "00.png")


@pytest.mark.parametrize(
    "path",
    ["..", "owl/../../x", "/etc/passwd", "/", "a\0b", "~/x", "nothing"]
    + ["a" * 300, "a/" * 3000, "a/" * 2040, "é/" * 2000, "\ud800"],
)
def test_paths_that_lead_out_or_nowhere_are_refused(context, path):
    with pytest.raises(RequestError):
        context.check_path(path)


def test_links_that_lead_out_are_refused_and_those_inside_are_not(context, tmp_path):
    (tmp_path / "secret").mkdir()
    (context.runs / "owl").mkdir()
    (context.runs / "out").symlink_to(tmp_path / "secret")
    (context.runs / "in").symlink_to(context.runs / "owl")
    with pytest.raises(RequestError, match="outside"):
        context.check_path("out")
    assert context.check_path("in") == context.runs / "owl"


def test_other_users_pictures_the_trash_and_the_log_are_not_to_be_named(context):
    for folder in (context.images, context.trash):
        (folder / "x.png").touch()
        with pytest.raises(RequestError):
            context.check_path(folder / "x.png")
    (context.runs / ".app" / "app.log").touch()
    with pytest.raises(RequestError):
        context.check_path(".app/app.log")


def png_of(width, height):
    """A PNG that says it has so many pixels and holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("huge.png", png_of(10_000, 10_000), "10000 × 10000"),
        ("bomb.png", png_of(60_000, 60_000), "million pixels"),
        ("words.png", b"only words", "not an image"),
        ("vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        ("cut.png", png_of(64, 64), "damaged image"),
        ("empty.jpg", b"", "not an image"),
    ],
)
def test_images_that_are_none_or_too_large_are_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=expected):
        upload.check_image(tmp_path / name)


def test_files_that_are_too_large_are_refused_whatever_is_in_them(tmp_path):
    """Of no size on the disk: they hold nothing after their beginning."""
    photo, adapter = tmp_path / "photo.png", tmp_path / "adapter.safetensors"
    Image.new("RGB", (8, 8)).save(photo)
    save_file({f"{STEM}.lora_down.weight": np.zeros((4, 8)), f"{STEM}.lora_up.weight": np.zeros((8, 4))}, adapter)
    for file, look, most, said in (
        (photo, upload.check_image, upload.MAX_IMAGE_BYTES, "an image may have 50 MB"),
        (adapter, upload.check_safetensors, upload.MAX_FILE_BYTES, "has more than 2 GB"),
    ):
        assert look(file) == file
        os.truncate(file, most + 1)
        with pytest.raises(RequestError, match=said):
            look(file)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "PCX"])
def test_an_image_of_a_kind_that_no_camera_writes_is_not_opened(tmp_path, kind):
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png", format=kind)
    with pytest.raises(RequestError, match="not an image"):
        upload.check_image(tmp_path / "photo.png")


def test_an_image_is_known_by_its_content(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.txt", format="JPEG")
    assert upload.check_image(tmp_path / "photo.txt")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("words.safetensors", b"only words", "words.safetensors"),
        ("model.ckpt", b"\x80\x02", "pickle"),
        ("model.bin", b"\x80\x02", "pickle"),
        ("notes.txt", b"words", "no .safetensors"),
        ("cut.safetensors", (10**6).to_bytes(8, "little") + b"{}", "cut.safetensors"),
    ],
)
def test_files_that_are_no_safetensors_are_refused(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=expected) as caught:
        upload.check_safetensors(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)
    assert ".safetensors" in caught.value.fix and "symdream base" not in caught.value.fix


STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"a.b.weight": (3, 3)}, "No adapter weight was recognised"),
        ({f"{STEM}.lora_down.weight": (4, 8)}, "only a part of the update"),
        ({f"{STEM}.hada_w1_a": (4, 8)}, "looks like a LoHa"),
        ({}, "No adapter weight was recognised"),
    ],
)
def test_what_holds_no_whole_adapter_is_refused_as_it_comes(tmp_path, parts, expected):
    file = tmp_path / "odd.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in parts.items()}, file)
    with pytest.raises(RequestError, match=expected):
        upload.check_safetensors(file)
    whole = {f"{STEM}.lora_down.weight": np.zeros((4, 8)), f"{STEM}.lora_up.weight": np.zeros((8, 4))}
    save_file(whole, file)
    assert upload.check_safetensors(file) == file


def test_our_errors_say_what_and_how_to_mend_it_and_others_say_nothing_of_the_inside(context):
    shown = plain(RequestError("No <b>base</b>.", where="here", fix="choose one"))
    assert "&lt;b&gt;" in shown.message and "choose one" in shown.message
    assert plain(ValueError("secret /secret/x.py")).message == UNEXPECTED
    assert "disk is full" in plain(OSError(errno.ENOSPC, "No space left on device")).message
    assert "not enough memory" in plain(MemoryError()).message
    assert str(context.runs) not in inline(context, RequestError("No.", where=str(context.runs / "owl")))
    line = inline(context, Problems("the request", [Problem("prompt", "is <empty>")]))
    assert "&lt;empty&gt;" in line and "<empty>" not in line and "&amp;" not in line
    assert no_markdown("a_b*c[d]\n e") == r"a\_b\*c\[d\] e"


def test_a_name_is_shown_as_it_is_and_no_character_of_it_means_anything():
    for name in ("fox&copy;2", "a_b*c*d_", "[x](y)", "<b>~~`c`~~</b>", "{#a} $x$ | \\n", "# a"):
        told = MarkdownIt().enable(["strikethrough", "table"]).renderInline(no_markdown(name))
        assert html.unescape(told) == name and "<" not in told


@pytest.mark.parametrize("name", ["- a", "+ a", "1. a", "12) a", "---", "===", "- - -", "# a", "> a", "1.5", "-1"])
def test_at_the_start_of_a_line_it_means_nothing_either(name):
    """Neither on a line of its own nor below another."""
    for before, shown in (("", ""), ("a  \n", "a<br />\n")):
        told = MarkdownIt().render(before + no_markdown(name))
        assert html.unescape(told) == f"<p>{shown}{name}</p>\n"


def test_what_to_do_is_said_in_the_words_of_the_page(context):
    for fix in ("name the base it was trained on with --base", "use --base sprite, or a local folder"):
        shown = plain(RequestError("No.", fix=fix)).message
        assert "the base" in shown and "--" not in shown
    shown = plain(WorkError("Out of memory.", fix="take one:\n  --batch-size 2: saves 1 GB\n  a lower --lr")).message
    assert shown.endswith("take one:\n  batch size 2: saves 1 GB\n  a lower learning rate")
    shown = plain(RequestError('There is no "night--base camp".', fix="name it with --base")).message
    assert 'no "night--base camp"' in shown and shown.endswith("name it with the base")


def test_traces_are_in_the_log_and_not_in_what_is_raised(context, caplog):
    @told(context)
    def fails():
        raise ValueError("secret inside")

    @told(context)
    def generator():
        yield 1
        raise ValueError("secret later")

    context.log.propagate = True
    for call in (fails, lambda: list(generator())):
        with pytest.raises(Exception) as caught:
            call()
        assert caught.value.message == UNEXPECTED and caught.value.__cause__ is None
    assert "secret inside" in caplog.text and "secret later" in caplog.text and "Traceback" in caplog.text


def test_a_disk_that_takes_no_more_is_told_plainly(context):
    # A picture of noise has more bytes than the files of this process may have from now on.
    from symdream_apps.generation import Made
    from symdream_apps.history import History, new_owner

    noise = Image.frombytes("RGB", (256, 256), os.urandom(3 * 256 * 256))
    settings = {"prompt": "a", "seed": 0, "steps": 1, "sampler": "base", "guidance": 1, "width": 256, "height": 256,
                "base": "sprite", "adapters": []}  # fmt: skip
    owner = new_owner()
    with file_size_limit(50_000), pytest.raises(Exception) as caught:
        History(context).save(owner, [Made(noise, settings)])
    assert "ulimit -f" in plain(caught.value).message
    assert History(context).newest(owner) == [] and not list((context.images / owner).iterdir())


def test_a_page_gets_back_only_what_was_sent_to_the_app(context):
    """What it names comes from the browser, and is served to it."""
    folder = context.uploads / "0123"
    folder.mkdir()
    sent, note = folder / "a.png", context.runs / "notes.txt"
    for file in (sent, note):
        file.write_text("mine")
    noted = Named([], [])
    named = [{"path": str(path), "orig_name": path.name} for path in (sent, note, folder, folder / "gone.png")]
    assert sent_before(context, named, noted) == [str(sent)]
    assert noted.missing == ["notes.txt", "0123", "gone.png"]


def test_a_file_that_the_app_may_not_read_takes_no_list_away(context, monkeypatch):
    save_file({"x": np.ones(1)}, context.runs / "locked.safetensors")
    (context.runs / "owl.safetensors").write_bytes(b"")

    def read(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("symdream.interop.header.read_header", read)  # root reads everything
    locked = str(context.runs / "locked.safetensors")
    assert choices(context) == []
    noted = Named([], [])
    bring_back(context, [locked], noted)
    assert noted.missing == ["locked.safetensors"]
