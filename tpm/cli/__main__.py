"""``python -m asyncdiff.tpm.cli`` is the command ``asyncdiff``."""

import sys

from . import main

sys.exit(main())
