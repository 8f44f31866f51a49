"""`python -m bertnli.train RUN.yaml`, which a launcher starts for each rank. It starts the watcher, without torch."""

import sys

from bertnli.train.process import main

if __name__ == "__main__":
    sys.exit(main())
