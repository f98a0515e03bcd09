"""What stands around a user's code. The only room that knows both the adapters and the engine."""
