"""Whether the model hub can be reached: found out once, and not anew for every file."""

import os
import socket
import urllib.request
from functools import cache
from urllib.parse import urlsplit

SECONDS = 5.0
"""For a connection, which takes a fraction of one."""


@cache
def hub_fault() -> str | None:
    """Why the hub is not to be asked, or None. Called before it is.

    Where it cannot be reached, this process and those that it starts are offline from then on, and
    find what is in the cache at once: huggingface_hub would try for half a minute, for each file.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = urlsplit(constants.ENDPOINT)
    host, port = address.hostname or "", address.port or {"http": 80}.get(address.scheme, 443)
    proxies = urllib.request.getproxies()
    if {address.scheme, "all"} & proxies.keys() and not urllib.request.proxy_bypass(host):
        return None  # what lies behind the proxy, only the proxy knows
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"
        return f"{host} cannot be reached: {error.strerror or error}"
    return None
