"""What a fit will need, before it starts: parameters, memory, operations, hours, disk."""
