"""`python -m nano_think` is `nano-think`."""

import sys

from nano_think.cli.main import main

sys.exit(main())
