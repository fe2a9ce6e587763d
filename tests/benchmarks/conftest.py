import pytest


@pytest.fixture(autouse=True)
def small_networks(one_thread):
    """The networks here are small enough for one thread."""
