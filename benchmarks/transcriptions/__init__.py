"""How the reference scripts of the methods spend their time, in our own words: one method, one
file, written from the papers and from what the scripts are known to do, not from their code.

Plain and competent: batches where the scripts have batches, no gradient where they take none. They
share nothing with one another, as the scripts do not, and they take weights, noise and rows from
outside, so that their numbers can be held against ours.
"""
