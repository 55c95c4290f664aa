"""The documentation site: what is generated from code, and how notebooks become pages."""
