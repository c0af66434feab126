"""Settings every test needs: offline, one thread, and a cache of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
