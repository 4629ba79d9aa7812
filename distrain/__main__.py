"""`python -m distrain`, as `distrain`."""

import sys

from distrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
