"""The report of one run: a single HTML file with what was asked, what came out, and what went wrong.

``<out>/<dataset>/reports/<time>-<id>.html``, never committed: it holds times and the machine. Everything that
came from names, files or errors passes Jinja2's autoescape; nothing is fetched and no script runs.
"""

from __future__ import annotations
