"""Files as each format of checkpoints has them, a folder for each: what was written once is read by every later version."""
