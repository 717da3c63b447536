"""What every test relies on: how examples are made up for properties (hypothesis).

They are the same in each run, so that nobody meets a rare one by chance.  To search for others:
``pytest --hypothesis-profile=search``.
"""

import os

from hypothesis import HealthCheck, settings

# No deadline, and no word about slowness: a slow machine is no defect.
_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("local", _ANY_MACHINE, derandomize=True, max_examples=500)
settings.register_profile("ci", _ANY_MACHINE, derandomize=True, max_examples=5000, print_blob=True)
settings.register_profile("search", _ANY_MACHINE, max_examples=5000, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
