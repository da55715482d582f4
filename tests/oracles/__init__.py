"""What each op should give, from NumPy and SciPy alone: ORACLES maps its name to a function of arguments and attributes."""
