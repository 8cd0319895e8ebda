"""`python -m raum_lightning` is `raum`."""

import sys

from raum_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
