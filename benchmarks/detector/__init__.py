"""The detector's speed against its own encoder and its peers, how its cost grows, and its risk by length."""
