"""What the Prefect server does by itself: mark the dead, try again, tell people, retrain."""
