"""Callbacks of wdl, installed and imported as ``wdl.callbacks``."""

if __name__ != "wdl.callbacks":
    raise ImportError("import wdl.callbacks instead: under another name its classes exist twice")
