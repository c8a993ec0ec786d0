"""How a step through the text tower is computed: by torch, or by hand in threads of our own; `engine` chooses."""
