"""What long runs, faults, overload, many viewers and hostile input do to memory, latency and frames."""
