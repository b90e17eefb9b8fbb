"""Everything that touches the machine, and nothing else."""
