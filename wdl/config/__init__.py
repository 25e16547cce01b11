"""What a user writes: command lines, paths and definitions in YAML, with faults in plain words."""
