"""The sparse step's kernels: numba on CPUs, Triton on GPUs, and plain torch as their reference."""
