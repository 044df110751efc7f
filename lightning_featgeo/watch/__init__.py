"""The engine-free core: a window is opened, fed, closed and announced here, whoever drives the loop."""
