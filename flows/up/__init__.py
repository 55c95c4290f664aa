"""`unveil up`: Prefect server, worker, MLflow server, and catalog with STAC Browser, from one folder."""
