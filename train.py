"""`python train.py --config config.yaml` is `durotaxis train --config config.yaml`."""

import sys

from durotaxis.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
