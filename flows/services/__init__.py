"""Services a run needs: a local Prefect server, and the doctor that looks at everything."""
