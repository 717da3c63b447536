"""How the tests of the core are run."""

import pytest

pytest.register_assert_rewrite("tests.core.transcript", "tests.core.world")
