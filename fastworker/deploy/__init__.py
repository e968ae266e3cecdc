"""Starting whole clusters: ``LocalCluster``, and the scheduler's command."""
