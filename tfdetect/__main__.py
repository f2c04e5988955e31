"""`python -m tfdetect` is the console script."""

import sys

from tfdetect.cli import main

sys.exit(main())
