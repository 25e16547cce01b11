"""The pair that trains: modules, strategy, checkpoints, resume and export."""
