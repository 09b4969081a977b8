"""Workers run the app: native threads, or the main context itself."""
