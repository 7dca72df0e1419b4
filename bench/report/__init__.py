"""From a run's records to tables, charts and a page. Reads records and metrics, never TensorFlow."""
