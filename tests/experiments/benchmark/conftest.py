import os

import pytest


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A machine on which nothing else is at work, so that goals are judged."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
