"""What needs a GPU: `python -m tests.gpu`."""
