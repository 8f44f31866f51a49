"""Starting a training job's processes: on this machine, and on many hosts."""
