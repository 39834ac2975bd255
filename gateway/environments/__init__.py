"""Virtual environments made from a pool's requirements, and what its worker needs beside them.

Knows nothing of pools, the table and generations. Imports nothing here: the supervisor needs
``client`` alone, and everything else runs in a process of its own.
"""
