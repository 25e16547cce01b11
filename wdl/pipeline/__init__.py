"""``wdl pipeline``: stages in order, each a command with a process, a folder and a log of its own.

YAML → steps (``stages``) → what each depends on (``inputs``) → run what is not done (``runner``),
each in a process (``process``), on record (``record``) → status and report (``report``).
"""
