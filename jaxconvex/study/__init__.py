"""The experiment: pretraining without labels, a probe, fine-tuning, and convexity of the layers of each."""
