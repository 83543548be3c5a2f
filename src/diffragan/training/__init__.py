"""The run that trains the conditional GAN."""
