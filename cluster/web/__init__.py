"""The hub over HTTP: routes with typed answers, and the page. The hub's only address of FastAPI."""
