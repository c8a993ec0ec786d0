"""One-off builders of what lies in the package, and of what documents measure on; not part of the package."""
