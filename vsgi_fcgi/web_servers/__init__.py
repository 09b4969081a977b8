"""What is configured on the web server's side: text, made without looking at anything."""
