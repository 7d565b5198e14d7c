"""Tables of the records, and the markup they are written in."""
