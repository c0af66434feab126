"""Settings every test needs: offline, and small models and photos that are made once."""

import os
import signal
import tempfile

# A shell that runs the tests in the background ignores Ctrl-C for them, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
# Latents are cached by content, so sharing a folder is safe; the user's own stays clean.
_cache = tempfile.TemporaryDirectory(prefix="symdream-cache-")
os.environ["SYMDREAM_CACHE"] = _cache.name

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def tiny_sd1(tmp_path_factory):
    from helpers.tiny_models import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("bases") / "tiny-sd1", "sd1")


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory):
    from helpers.tiny_models import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("bases") / "tiny-sd2", "sd2", text_width=1024)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory):
    from helpers.tiny_models import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("bases") / "tiny-sdxl", "sdxl")


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    from helpers.runs import make_photos

    return make_photos(tmp_path_factory.mktemp("photos") / "my toy é")


@pytest.fixture
def nobody():
    """Not root, who may read and write everywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.fixture
def few_denoising_steps(monkeypatch):
    """Pictures of bases in folders come of 2 denoising steps: noise, but quickly."""
    from symdream.diffusion.base import SAMPLING_DEFAULTS

    monkeypatch.setitem(SAMPLING_DEFAULTS, "steps", 2)
