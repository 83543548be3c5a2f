"""One pair at a time: methods, proposals, solvers, supports, starts, trust."""
