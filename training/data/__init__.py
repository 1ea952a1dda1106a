"""The data set: its index, splits and decoded clips, and how to fetch one."""
