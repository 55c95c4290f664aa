"""Local Prefect and MLflow servers, and their logins."""
