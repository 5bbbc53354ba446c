"""The main job, its folder, its report, and what may be concluded from it."""
