"""Datasets: named splits of volumes with class names, intensity window and spacing."""
