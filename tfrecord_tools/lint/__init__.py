"""What is wrong or remarkable about studies: a check a function, findings as its results."""
