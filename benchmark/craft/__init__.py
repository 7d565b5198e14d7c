"""One adversarial volume, its cost and its flags."""
