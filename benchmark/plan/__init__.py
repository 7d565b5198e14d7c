"""From names to what is crossed; a plan is data only."""
