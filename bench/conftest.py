"""What pytest collects here by itself: all but what takes minutes, or answers another question, and runs only when named."""

collect_ignore = ["test_convert.py", "test_loaders.py", "test_convolutions.py", "test_report_time.py"]
