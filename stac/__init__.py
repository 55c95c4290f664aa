"""Earth-observation data in and out: search, read, mask, composite, write, publish. No torch, no Prefect."""
