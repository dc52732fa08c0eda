"""Who does the jobs of a run: this process, several processes on this computer, or a cluster. One loop for all."""
