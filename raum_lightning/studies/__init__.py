"""Several runs as one result: cross-validation, its tables, and comparisons between such results."""
