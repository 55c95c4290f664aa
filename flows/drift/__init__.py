"""Is what the model sees today still what it was trained on?"""
