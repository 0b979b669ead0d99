"""``python -m zsbir`` is the command ``zsbir``."""

import sys

from zsbir.cli import main

if __name__ == "__main__":
    sys.exit(main())
