"""``python -m zo_triton`` is ``zo-triton``, for a Python whose scripts are not on the path."""

import sys

from zo_triton.cli import main

if __name__ == "__main__":
    sys.exit(main())
