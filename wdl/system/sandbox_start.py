"""The first lines that run in a sandbox: they bind the limits, give up rights, run the program.

Given by its text to an interpreter that has none of this project, with settings as JSON.
"""

import json
import os
import resource
import sys


def _start() -> str:
    """The program's text, when everything is bound."""
    settings = json.loads(sys.argv.pop())
    report, told = settings["fds"]
    for descriptor, place in ((report, 3), (told, 4)):
        os.dup2(descriptor, 1000 + place)  # out of the way: each may have the other's place
    for place in (3, 4):
        os.dup2(1000 + place, place, inheritable=False)
    os.closerange(5, 1010)
    limits = {
        "AS": settings["memory"],
        "CPU": int(settings["seconds"]) + 2,
        "FSIZE": settings["files"],
        "NOFILE": 256,
        "CORE": 0,
        **({"NPROC": settings["processes"]} if settings["bounds_processes"] else {}),
    }
    if (user := settings["user"]) is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))
    sys.path += settings["path"]
    os.write(3, b"started\n")
    size = int.from_bytes(_read(8), "big")
    return _read(size).decode("utf-8", "surrogatepass")


def _read(size: int) -> bytes:
    parts = []
    while size:
        parts.append(os.read(4, size))
        if not parts[-1]:
            raise EOFError
        size -= len(parts[-1])
    return b"".join(parts)


if __name__ == "__main__":
    _program = compile(_start(), "<program>", "exec")
    for _name in ("json", "resource", "os", "sys", "_start", "_read", "_name"):
        globals().pop(_name, None)
    exec(globals().pop("_program"))
