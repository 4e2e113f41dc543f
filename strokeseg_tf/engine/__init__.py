"""How a network is trained: recipe, optimiser, precision, devices, and what is kept of it."""
