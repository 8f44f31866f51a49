"""`python -m bertnli.train RUN.yaml`: what a launcher starts for each rank. The watcher starts here, without torch."""

import sys

from bertnli.train.process import main

if __name__ == "__main__":
    sys.exit(main())
