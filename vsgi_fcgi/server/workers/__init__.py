"""Workers run the app: native threads, the main context itself, or greenlets in it."""
