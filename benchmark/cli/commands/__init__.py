"""What the commands do; how they are typed stands one folder up."""
