"""Upstreams and policies to try Tallystick with: `python -m examples.crm_server`, from a checkout."""
