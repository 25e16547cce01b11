"""From records to the micro-batches of every rank; :mod:`wdl.data.module` is the whole path."""
