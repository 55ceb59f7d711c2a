"""How fast a recipe is on this machine, and where its time goes."""
