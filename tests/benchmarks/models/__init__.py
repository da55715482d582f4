"""Models beyond MLPs, in each library: a step is forward, backward and Adam's update, in float32.

Everybody gets the same weights, by PyTorch's names and in its layout, and the same batch. A module here makes of both a step
that returns the loss as a number.
"""
