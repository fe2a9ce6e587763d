import os

import pytest


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of a process that compiles, with a cache of its own."""
    names = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {**names, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
