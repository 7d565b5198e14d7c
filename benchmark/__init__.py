"""The harness: crosses models, attacks and datasets, writes records and tables."""
