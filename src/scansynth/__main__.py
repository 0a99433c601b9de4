"""`python -m scansynth VERB …`: the command line of that Python, whatever is on the path."""

import sys

from scansynth.cli import main

if __name__ == "__main__":
    sys.exit(main())
