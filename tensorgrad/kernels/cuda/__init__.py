"""The fused kernels for NVIDIA GPUs: CUDA C, generated or in sources/, compiled and launched through CuPy.

generate   chains as CUDA C, and the sources as programs;  launch   the kernels, bound to arrays or called with them

Importing this imports no CuPy.
"""
