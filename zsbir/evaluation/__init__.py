"""Evaluation: protocols, metrics, the evaluator and its reports."""
