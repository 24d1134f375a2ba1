"""Ray itself: sessions, nodes, autoscalers, drains, deaths, jobs. Ray's private names are in `ray_private` alone.

environment    what Ray reads before it is imported, and what its processes must not see
session        start Ray or join a cluster, and leave it
nodes          the nodes there are, and what each of them can reach
autoscaler     the nodes an autoscaler may still start
drain          notice that this node is about to be taken away
deaths         why a process is gone: its own doing, or its node's
jobs           a search submitted as a Ray job
doctor         what is wrong with machine, cluster, store and storage
"""
