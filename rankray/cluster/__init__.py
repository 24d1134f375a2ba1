"""Ray itself: sessions, nodes, autoscalers, drains, deaths, jobs. Only `ray_private` uses Ray's private names.

environment    what Ray reads when it is imported, and what its processes must not see
session        start Ray or join a cluster, and leave it
nodes          the running nodes, and what each of them can reach
autoscaler     the nodes an autoscaler may still start
drain          whether this node is being taken away
deaths         whether a process died by itself, or with its node
jobs           a search submitted as a Ray job
doctor         what is wrong with machine, cluster, store and storage
"""
