"""The encoders with a gradient, readable: `text` and `image`, of the same `block`; `fake_quant` rounds as integers do."""
