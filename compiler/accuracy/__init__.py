"""What each rounding costs, and what to do about it."""
