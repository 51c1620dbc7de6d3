"""How good the detector and the refinement are, and how sure that is."""
