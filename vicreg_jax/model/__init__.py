"""What is trained and by what: encoder, losses, optimizers."""
