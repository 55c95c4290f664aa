"""Scheduled retraining: new pairs, a fine-tuned challenger, a contest, and a promotion where it is earned."""
