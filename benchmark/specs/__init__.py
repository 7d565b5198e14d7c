"""What is asked, as plain values; nothing here needs torch."""
