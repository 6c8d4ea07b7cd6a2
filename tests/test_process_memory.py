"""Free memory is kept between the batches of a ranking and goes back now and then in a training on a CPU."""

import mmap
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hf_bert4rec import process_memory
from hf_bert4rec.process_memory import (
    STEPS_BETWEEN_TRIMS,
    ReturnFreeMemory,
    keep_free_memory,
    resident_pages,
    return_free_memory,
)


def resident_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is not GNU's")
def test_what_lies_free_between_blocks_in_use_goes_back():
    return_free_memory()
    blocks = [torch.ones(16_000) for _ in range(2000)]  # 64 kB each, too small to be mapped on its own
    full = resident_bytes()
    del blocks[:-1:2]
    assert return_free_memory()
    assert resident_bytes() < full - 40_000_000


def test_a_c_library_without_the_call_gives_nothing_back(monkeypatch):
    monkeypatch.setattr(process_memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not return_free_memory()


# Blocks of 8 MB in two threes, as the layers of a ranking ask for them and free them.
RANKING = """
import resource, sys
import numpy as np
from hf_bert4rec.process_memory import keep_free_memory
if sys.argv[1] == "kept":
    assert keep_free_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for time in range(20):
    if time == 4:
        start = faults()
    for _ in range(2):
        blocks = [np.ones(1_000_000) for _ in range(3)]
        del blocks
print(faults() - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is not GNU's")
def test_blocks_of_a_ranking_are_taken_from_what_was_freed():
    faults = {}
    for how in ("kept", "plain"):
        command = [sys.executable, "-c", RANKING, how]
        faults[how] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["kept"] < faults["plain"] / 10


def test_a_c_library_without_the_option_keeps_nothing(monkeypatch):
    monkeypatch.setattr(process_memory.ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_free_memory()


def test_a_training_gives_memory_back_when_it_holds_more_than_a_step_needs(monkeypatch):
    held, gives_back = 5000, []
    monkeypatch.setattr(process_memory, "LEAST_TRIM", 300)
    monkeypatch.setattr(process_memory, "resident_pages", lambda: held)
    monkeypatch.setattr(process_memory, "return_free_memory", lambda: gives_back.append(step))
    monkeypatch.setattr(process_memory, "keep_free_memory", lambda: gives_back.append("kept from here"))
    callback, step = ReturnFreeMemory(), 0
    callback.on_train_begin(None, None, None)
    # Much is held from the second step on, but it is too soon; then too little for long; after it, a fifth is what a step needs.
    pages = {1: 1000, 2: 2000, 16: 2000, 17: 200, 18: 490, 40: 490, 41: 510, 42: 510}
    for step in range(1, 60):
        held = 5000 + pages.get(step, held - 5000)
        callback.on_step_end(None, None, None)
    step = "end"
    callback.on_train_end(None, None, None)
    assert gives_back == [0, "kept from here", STEPS_BETWEEN_TRIMS, 41, "end"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system has no /proc")
def test_the_pages_of_a_process_are_those_that_it_wrote():
    with mmap.mmap(-1, 10_000 * mmap.PAGESIZE) as memory:
        before = resident_pages()
        memory[:: mmap.PAGESIZE] = b"x" * 10_000
        assert 9_000 < resident_pages() - before < 11_000


def test_without_proc_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(FileNotFoundError))
    gives_back, callback = [], ReturnFreeMemory()
    monkeypatch.setattr(process_memory, "return_free_memory", lambda: gives_back.append(True))
    for _ in range(2 * STEPS_BETWEEN_TRIMS):
        callback.on_step_end(None, None, None)
    assert resident_pages() == 0
    assert not gives_back
