"""Questions beyond the table: each study in a folder of its own."""
