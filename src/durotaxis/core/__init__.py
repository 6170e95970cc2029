"""What every layer stands on: configuration, randomness, structs of tensors, segments, shapes, errors."""
