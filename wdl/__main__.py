"""``python -m wdl``: the same as the ``wdl`` command."""

if __name__ == "__main__":
    try:
        from wdl.cli import main

        main()
    except KeyboardInterrupt:  # while modules are imported; Python's own exit code would be 1
        raise SystemExit(130) from None
