"""The sparse step's kernels: numba on CPUs, Triton on GPUs, and plain torch as their reference.

Own code: the libraries' kernels (OpenAI's and EleutherAI's sparse decoders) take a fixed number of active features per
token and untied weights, on GPUs only; here their number varies, encoder and decoder are one matrix, and CPUs count.
"""
