"""The data sets of testbeds, and how their files are read."""
