"""Makes planted.py importable, and keeps torch's second thread from spinning beside tiny tensors."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    pass
