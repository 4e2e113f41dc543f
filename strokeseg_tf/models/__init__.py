"""The four networks of the paper as Keras functional models made of stock layers."""
