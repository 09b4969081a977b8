"""Real web servers, and the apps behind them."""
