"""What a service is made of: settings, engine, keys, callers, problems, health; and how one is started, by its name.

A service's `app.py` puts these parts together and is the only place where clock, keys, engine and settings enter.
"""

NAMES = ("controls", "scope", "receipts")
