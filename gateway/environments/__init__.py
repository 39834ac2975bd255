"""Virtual environments made from a pool's requirements, and what its worker needs beside them.

The supervisor uses only ``client``; everything else runs in a process of its own.
"""
