"""Every Python process of the tests' Ray nodes begins with this file; those that score partitions are workers."""

import sys

if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    from tests.support import stopping_worker

    stopping_worker.install()
