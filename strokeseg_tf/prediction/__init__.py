"""From models and studies to probabilities, masks and what goes with them."""
