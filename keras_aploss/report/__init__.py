"""Pictures of rankings, and the page of an evaluation.

`write_evaluation` writes the page: HTML and SVG from the Jinja templates of
`templates/`. `draw_rankings`, `draw_grid` and `draw_sprite` draw pictures with Pillow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
