"""
What every test shares: fixed seeds, two threads in all, no network, real logs where there are any.
"""

import logging
import os
from pathlib import Path

import hypothesis
import pandas as pd
import pytest
import torch

collect_ignore = ["peers"]  # programs for the environments of other projects


def pytest_configure(config):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(2, torch.get_num_threads()) // workers))
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fixed_seed():
    # Not at the top: the Hub's client reads HF_HUB_OFFLINE when it is imported.
    from transformers import set_seed

    set_seed(0)


class DeprecationRecorder(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if "deprecated" in record.getMessage().lower():
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def logged_deprecations():
    """Transformers and datasets log most of their deprecations, where the warning filters of pytest do not look."""
    recorder = DeprecationRecorder()
    loggers = [logging.getLogger(name) for name in ("transformers", "datasets")]
    for logger in loggers:
        logger.addHandler(recorder)
    yield recorder
    for logger in loggers:
        logger.removeHandler(recorder)
    assert not recorder.messages


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real logs (`ml-100k/u.data`, `ml-1m/interactions.parquet` ...); the test skips where there is none."""
    if "BERT4REC_DATA" not in os.environ:
        pytest.skip("BERT4REC_DATA is not set; tests on real logs need the folder that holds ml-100k/ and ml-1m/")
    folder = Path(os.environ["BERT4REC_DATA"])
    if not folder.is_dir():
        pytest.fail(f"BERT4REC_DATA is {folder}, which is no folder; correct it or unset it", pytrace=False)
    return folder


@pytest.fixture
def interaction_log() -> pd.DataFrame:
    """
    Ten users with seven events each over ten items: user u takes the items u, u + 1, ... around a ring, so that the
    last item tells the next. Rows are in order of time, users take turns; the default 5-core keeps every row.
    """
    rows = [(f"u{user}", f"i{(user + step) % 10}", 10 * step + user) for step in range(7) for user in range(10)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
