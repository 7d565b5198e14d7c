"""Questions beyond the table."""
