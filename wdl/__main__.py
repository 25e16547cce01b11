"""``python -m wdl``: the same as the ``wdl`` command."""

from wdl.cli import main

if __name__ == "__main__":
    main()
