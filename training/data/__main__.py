"""python -m training.data DIR: see training.data.listing."""

import sys

from training.data.listing import main

if __name__ == "__main__":
    sys.exit(main())
