"""How the networks of the zoo are made."""
