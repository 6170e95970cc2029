"""The world in other stacks: Gymnasium, Stable-Baselines3, TorchRL. Nothing is here yet."""
