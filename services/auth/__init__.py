"""Who is it? Users, passwords, access tokens, API keys."""
