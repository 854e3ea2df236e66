"""Looks for the target that suits a model and a part: Optuna over the cost and resource models."""
