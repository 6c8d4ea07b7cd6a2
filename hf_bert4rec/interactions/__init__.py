"""
A log of interactions becomes filtered, ordered, split histories: `prepare` writes them, `load_data` opens them.

Reading order: `options.py`, `preparation.py`; below them the log (`log.py`, `sources.py`, `tables.py`, `text.py`,
`columns.py`, `times.py`), the SQL (`engine.py`, `duckdb_engine.py`, `spark_engine.py`, `filters.py`)
and the folder (`histories.py`).
"""

from .histories import InteractionData, load_data
from .options import InteractionOptions
from .preparation import prepare

__all__ = ["InteractionData", "InteractionOptions", "load_data", "prepare"]
