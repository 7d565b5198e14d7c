"""Adversarial attacks on volumes: torch and the standard library only."""
