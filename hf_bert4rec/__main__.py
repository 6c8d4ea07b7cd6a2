"""`python -m hf_bert4rec` is `hf-bert4rec`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
