"""From a risk distribution to a safer prompt: textual gradients, the refiner's frame, and the loop (§3.3)."""
