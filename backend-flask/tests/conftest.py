import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import app as backend  # noqa: E402


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr(backend, "NAME", "alpha")
    monkeypatch.setattr(backend, "SERVER_ID", "7")
    monkeypatch.setattr(backend, "rate", backend.Rate())
    backend.healthy.set()
    backend.stopping.clear()
    return backend.app.test_client()
