"""The tables and figures of the thesis, each from a command."""
