"""`python -m durotaxis` is the command `durotaxis`."""

from durotaxis.cli import main

if __name__ == "__main__":
    main()
