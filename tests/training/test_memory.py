import psutil
import pytest
import torch

from symdream.training.memory import peak_memory


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it is the GPU's memory")
def test_the_peak_is_told_in_bytes_and_counts_what_was_given_back():
    before = peak_memory()
    assert 0.9 * psutil.Process().memory_info().rss < before < psutil.virtual_memory().total
    size = before - psutil.Process().memory_info().rss + 50 * 2**20  # beyond the peak so far
    block = b"\1" * size
    del block
    assert before + 20 * 2**20 < peak_memory()
