"""How what lies beside a molecule scatters, by angle, and how a beam fades what it lights."""
