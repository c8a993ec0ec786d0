"""Prompt learning with torch on the CPU: frozen text tower, quantizer, methods, the loop."""
