"""Files, journals, digests and processes: what every room needs of the machine."""
