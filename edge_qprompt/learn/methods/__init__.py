"""The ways to learn, a file each; `registry` knows them by name. What only methods share is here as well."""
