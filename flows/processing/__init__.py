"""From a work unit to a product, without Prefect."""
