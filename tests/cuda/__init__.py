"""CUDA kernels tested without a GPU: compiled by NVRTC, and run on the CPU."""
