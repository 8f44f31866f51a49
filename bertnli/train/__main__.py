"""`python -m bertnli.train RUN.yaml`, which a launcher starts for each rank. It starts the watcher, without torch."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working folder: nothing is imported from there (common/safe_path.py)

from bertnli.train.process import main

if __name__ == "__main__":
    sys.exit(main())
