"""Measuring a model: answers, drawn and edited pictures, and the report that shows them."""
