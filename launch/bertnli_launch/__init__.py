"""Start a training job's processes, on this machine or on many hosts."""
