"""An OpenAI-compatible server (`pip install manzano[serve]`): chat about images, draw, edit."""
