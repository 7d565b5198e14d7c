"""What a number is, per case and over cases."""
