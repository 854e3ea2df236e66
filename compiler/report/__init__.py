"""What a report says: measured on what was compiled, changing nothing."""
