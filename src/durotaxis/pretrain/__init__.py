"""Tasks of the domain that make pre-trained models. Nothing is here yet."""
