"""Runs through papermill, the pipeline, the dashboard's server, the doctor."""
