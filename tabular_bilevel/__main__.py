"""Run the command line: ``python -m tabular_bilevel``."""

import sys

from tabular_bilevel.cli import main

if __name__ == "__main__":
    sys.exit(main())
