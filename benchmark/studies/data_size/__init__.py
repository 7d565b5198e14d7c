"""What more training data buys: the same training on more and more patients, and after a pre-training on phantoms."""
