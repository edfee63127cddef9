"""What runs a reduction: one module for each way."""
