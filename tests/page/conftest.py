"""The page and the API's description, in a real browser."""

from page_fixtures import browser, open_page, page, sites, task_page

__all__ = ["sites", "browser", "open_page", "page", "task_page"]
