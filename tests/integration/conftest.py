"""Types are checked where whole runs are of every kind once; the other files run the same code over and over.

The checks take a quarter of these tests' time. Every unit test has them.
"""

from collections.abc import Iterator

import pytest

from tests._helpers.typed import unchecked

CHECKED = {
    "test_adapters.py", "test_early_stopping.py", "test_kinds_of_runs.py", "test_labels.py", "test_layers.py",
    "test_loggers.py", "test_monitor.py", "test_reference.py", "test_tokens.py", "test_windows.py",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _types(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.path.name in CHECKED:
        yield
    else:
        with unchecked():
            yield
