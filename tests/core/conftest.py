"""How the tests of the core are run."""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.core.transcript", "tests.core.world")

# No deadline: a slow machine is no defect.
settings.register_profile("local", deadline=None, max_examples=500)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=5000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "local")
