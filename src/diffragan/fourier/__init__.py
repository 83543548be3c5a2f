"""Pure maths on Fourier grids in two and three dimensions."""
