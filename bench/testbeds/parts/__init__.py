"""What testbeds are made of beside their data: where generators and classifiers come from, who
judges, which features are looked through.
"""
