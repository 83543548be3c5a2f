"""What bonds and distances tell of free atoms: elements, main chain, side chains."""
