"""Evaluation of models: metrics, features of judges, likelihoods."""
