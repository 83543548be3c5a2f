"""From free atoms to a molecule: elements, chain, residues, a model with names."""
