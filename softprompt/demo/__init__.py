"""The demo: several small tasks on one frozen backbone, with the data that ships with the package."""
