"""All that is kept below ``results/``."""
