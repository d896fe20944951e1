"""A frozen encoder in other people's hands. Imports no TensorFlow."""
