"""What pytest collects here by itself: ``test_convert.py`` takes minutes, and runs only when it is named."""

collect_ignore = ["test_convert.py"]
