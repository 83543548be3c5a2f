"""Generator, discriminator, scaling of their inputs, and weight files."""
