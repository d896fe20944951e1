"""A collection: its table of embeddings, neighbours, index and map."""
