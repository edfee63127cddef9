"""Settings of hypothesis for all tests:
without a deadline, and under CI the same examples in every run.
"""

import os

from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

if "asan" in os.environ.get("LD_PRELOAD", ""):  # so that it sees where scratch memory ends
    from duckkeops.engines import threads

    threads.KEPT_BYTES = 0
