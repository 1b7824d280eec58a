"""Training on the captured graph: fine-tuning, and what is built on its loop."""
